"""Tables in files, read row by row: .safetensors, .npy, or several of them that hold one table."""

from collections.abc import Callable
from glob import has_magic
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from foldflat.cluster.source import RowSource, ShardedRows
from foldflat.errors import DataError, ModelNotFoundError

__all__ = ["TABLE_SUFFIXES", "open_rows"]

TABLE_SUFFIXES = (".safetensors", ".npy")
_ROWS_AN_OPENING = 1024


Reader = Callable[[int, int], Tensor]


class FileRows:
    """Read rows of a table (n, d) from a file into memory of their own, never all at once."""

    device = torch.device("cpu")

    def __init__(self, reader: Callable[[], Reader], shape: tuple[int, int], dtype: torch.dtype) -> None:
        """Take what opens the file and gives a function from first and last position to rows."""
        self._reader = reader
        self.shape, self.dtype = torch.Size(shape), dtype

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Return (b, d): consecutive rows, or those at given positions (b,)."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self.shape[0])
            return self._reader()(start, max(start, stop))
        result = torch.empty(len(rows), self.shape[1], dtype=self.dtype)
        # in the order of the file, which is opened anew now and then: what was read stays mapped until it is closed
        for batch in rows.argsort().split(_ROWS_AN_OPENING):
            read = self._reader()
            for i in batch.tolist():
                position = int(rows[i])
                result[i] = read(position, position + 1)[0]
        return result


def open_rows(text: str) -> RowSource | None:
    """Open the table that FILE.safetensors[:TENSOR] or FILE.npy names; None if the text names neither.

    A pattern such as part-*.safetensors names the files that it matches, which hold consecutive rows of one table
    in the order of their names.

    Raises:
        ModelNotFoundError: no such file or tensor.
        DataError: not a table of floats, damaged, or the files do not fit together.
    """
    file, tensor = _file_and_tensor(text)
    if file.suffix not in TABLE_SUFFIXES:
        return None
    if not has_magic(file.name) or file.is_file():
        return _open(file, tensor)
    files = sorted(file.parent.glob(file.name))
    if not files:
        raise ModelNotFoundError(f"no file matches {file}; hint: a pattern is matched within one folder, {file.parent}")
    return ShardedRows([_open(found, tensor) for found in files], [str(found) for found in files])


def _file_and_tensor(text: str) -> tuple[Path, str | None]:
    if Path(text).is_file() or ":" not in text:
        return Path(text), None
    file, _, tensor = text.rpartition(":")
    return Path(file), tensor


def _open(file: Path, tensor: str | None) -> FileRows:
    if not file.is_file():
        raise ModelNotFoundError(f"{file} does not exist")
    try:
        return _open_safetensors(file, tensor) if file.suffix == ".safetensors" else _open_npy(file)
    except (SafetensorError, ValueError, TypeError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} cannot be read ({error})") from error


def _open_npy(file: Path) -> FileRows:
    array: np.ndarray[Any, Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    sample = torch.from_numpy(np.zeros((0,), dtype=array.dtype))
    _check(str(file), array.shape, sample.dtype)

    def reader() -> Reader:
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        return lambda start, stop: torch.from_numpy(np.array(mapped[start:stop]))

    return FileRows(reader, array.shape, sample.dtype)


def _open_safetensors(file: Path, tensor: str | None) -> FileRows:
    with safe_open(file, "pt") as stream:
        names = list(stream.keys())
        tables = [name for name in names if len(stream.get_slice(name).get_shape()) == 2]
        if tensor is None and len(tables) != 1:
            listed = ", ".join(tables[:6]) + (" .." if len(tables) > 6 else "")
            raise ModelNotFoundError(f"{file} holds {len(tables)} tables ({listed}); hint: name one as {file}:TENSOR")
        name = tables[0] if tensor is None else tensor
        if name not in names:
            raise ModelNotFoundError(f"{file} has no tensor {name!r}; it has {', '.join(names[:6])}")
        part = stream.get_slice(name)
        shape = tuple(part.get_shape())
        dtype = part[:0].dtype if shape else stream.get_tensor(name).dtype
    _check(f"{file}:{name}" if tensor else str(file), shape, dtype)

    def reader() -> Reader:
        rows = safe_open(file, "pt").__enter__().get_slice(name)  # type: ignore[no-untyped-call]
        return lambda start, stop: rows[start:stop]

    return FileRows(reader, shape, dtype)


def _check(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if len(shape) != 2 or not dtype.is_floating_point:
        raise DataError(f"{name} holds {dtype} of shape {shape}; hint: give one table (n, d) of floats")
