"""What MODEL means on the command line: a folder, a hub name, or a file with one table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from foldflat.checkpoint import load
from foldflat.errors import DataError, ModelNotFoundError
from foldflat.model.hub.reading import load_pretrained, transformer_module_path
from foldflat.model.manifest import MANIFEST

__all__ = ["Source", "open_source"]


@dataclass(frozen=True)
class Source:
    """Hold a model and where it came from.

    Attributes:
        text: as the user gave it.
        kind: "table", "transformers", "sentence-transformers" or "foldflat" (already compressed).
        model: a module, or a table (n, d).
        inner: for a sentence encoder, the folder of its transformer relative to the whole, "" for the top.
    """

    text: str
    kind: str
    model: nn.Module | Tensor
    inner: str = ""

    @property
    def folder(self) -> Path:
        """Return the folder that holds the transformer."""
        return Path(self.text) / self.inner


def open_source(text: str) -> Source:
    """Load what MODEL names.

    Raises:
        ModelNotFoundError, UnsupportedModelError, CheckpointError, DataError: it cannot be read; says why.
    """
    path = Path(text)
    if path.is_dir():
        return _open_folder(text, path)
    file, tensor = _file_and_tensor(text)
    if file.suffix in (".safetensors", ".npy"):
        return Source(text, "table", _read_table(file, tensor))
    if path.is_file():
        raise ModelNotFoundError(f"{text} is a file of unknown kind; hint: give .safetensors[:TENSOR] or .npy")
    return Source(text, "transformers", load_pretrained(text))


def _open_folder(text: str, path: Path) -> Source:
    inner = transformer_module_path(path)
    if inner is not None:
        kind = "foldflat" if (path / MANIFEST).is_file() else "sentence-transformers"
        return Source(text, kind, load_pretrained(path / inner), inner)
    if (path / MANIFEST).is_file():
        return Source(text, "foldflat", load(path))
    return Source(text, "transformers", load_pretrained(path))


def _file_and_tensor(text: str) -> tuple[Path, str | None]:
    if Path(text).is_file() or ":" not in text:
        return Path(text), None
    file, _, tensor = text.rpartition(":")
    return Path(file), tensor


def _read_table(file: Path, tensor: str | None) -> Tensor:
    if not file.is_file():
        raise ModelNotFoundError(f"{file} does not exist")
    try:
        table = _from_safetensors(file, tensor) if file.suffix == ".safetensors" else _from_npy(file)
    except (SafetensorError, ValueError, EOFError) as error:
        raise DataError(f"{file} cannot be read ({error})") from error
    if table.ndim != 2 or not table.is_floating_point():
        raise DataError(
            f"{file}{f':{tensor}' if tensor else ''} holds {table.dtype} of shape {tuple(table.shape)}; "
            "hint: give one table (n, d) of floats"
        )
    return table


def _from_npy(file: Path) -> Tensor:
    array: np.ndarray[Any, Any] = np.load(file, allow_pickle=False)
    return torch.from_numpy(array)


def _from_safetensors(file: Path, tensor: str | None) -> Tensor:
    with safe_open(file, "pt") as stream:
        names = list(stream.keys())
        tables = [name for name in names if len(stream.get_slice(name).get_shape()) == 2]
        if tensor is None and len(tables) != 1:
            listed = ", ".join(tables[:6]) + (" .." if len(tables) > 6 else "")
            raise ModelNotFoundError(f"{file} holds {len(tables)} tables ({listed}); hint: name one as {file}:TENSOR")
        name = tables[0] if tensor is None else tensor
        if name not in names:
            raise ModelNotFoundError(f"{file} has no tensor {name!r}; it has {', '.join(names[:6])}")
        table: Tensor = stream.get_tensor(name)
    return table
