"""Read texts one after another: plain files, files of rows, folders of them, data sets of the hub."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foldflat.errors import DataError, ModelNotFoundError, RecipeError
from foldflat.evaluate.isolation import datasets_bars_off
from foldflat.evaluate.names import local_folder
from foldflat.evaluate.optional import require
from foldflat.evaluate.reading import read_split

__all__ = ["Texts"]

_ROW_FILES = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_KINDS = (".txt", *_ROW_FILES)
_ABOUT_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_LONGEST_LINE = 1 << 20
_BATCH = 1000
_SPLIT = "train"

Documents = Iterator[tuple[str, ...]]


class Texts:
    """Iterate over the texts of a source, which is read as it goes and never held whole.

    A document is a line of plain text that is not blank, or a row. A line of more than a million characters is read
    in pieces. Iterating again reads again.

    Args:
        source: a file of plain text in UTF-8; .jsonl, .json, .csv or .parquet with rows; a folder, every file of
            these kinds in it (plain text as .txt); or `NAME[:CONFIGURATION[:SPLIT]]`, a folder or hub name that
            `datasets.load_dataset(NAME, CONFIGURATION)` reads, of which the training split is taken.
        column: which column of the rows; default "text", and where there is none, every column of strings.
        limit: documents to read at most; default all.

    Attributes:
        columns: what was read so far: file or data set -> columns, () for plain text.
        documents: how many were read so far.

    Raises:
        ModelNotFoundError: no such file, folder or data set.
        RecipeError: a limit below 1.
        DataError: nothing in a folder, a file that cannot be read or is not text, no such column; while iterating.
    """

    def __init__(self, source: str | os.PathLike[str], *, column: str | None = None, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise RecipeError(f"the limit is {limit} documents; hint: at least 1, or none for all of them")
        self._column, self._limit = column, limit
        self._parts = _parts(os.fspath(source))
        self.columns: dict[str, tuple[str, ...]] = {}
        self.documents = 0

    def __iter__(self) -> Iterator[str]:
        """Yield one text after another; a row gives as many as it has columns of text."""
        self.columns, self.documents = {}, 0
        for label, read in self._parts:
            for document in read(label, self._column, self.columns):
                yield from document
                self.documents += 1
                if self.documents == self._limit:
                    return


Reader = Callable[[str, str | None, dict[str, tuple[str, ...]]], Documents]


def _parts(source: str) -> list[tuple[str, Reader]]:
    """Return what a source consists of: labels, and functions that read them."""
    path = Path(source).expanduser()
    if path.is_file():
        return [(str(path), _reader_of(path))]
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if _is_data(file.relative_to(path)) and file.is_file()]
        if not files:
            raise DataError(f"folder {source!r} holds none of {', '.join(_KINDS)}\nhint: give a file, or other files")
        return [(str(file), _reader_of(file)) for file in files]
    name, _, rest = source.partition(":")
    configuration, _, split = rest.partition(":")
    if Path(name).suffix in _KINDS:
        raise ModelNotFoundError(f"no file {name!r}\nhint: relative paths start at {str(Path.cwd())!r}")
    local_folder(name)

    def read(label: str, column: str | None, columns: dict[str, tuple[str, ...]]) -> Documents:
        rows = read_split(name, split or _SPLIT, configuration or None, streaming=True)
        return _documents(rows, label, column, columns)

    return [(source, read)]


def _is_data(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return not hidden and relative.suffix in _KINDS and relative.name not in _ABOUT_DATA


def _reader_of(path: Path) -> Reader:
    return _read_rows if path.suffix in _ROW_FILES else _read_lines


def _read_lines(label: str, column: str | None, columns: dict[str, tuple[str, ...]]) -> Documents:
    if column is not None:
        raise DataError(f"{label} is read as plain text, which has no column {column!r}\nhint: leave the column out")
    columns[label] = ()
    try:
        with Path(label).open(encoding="utf-8-sig") as stream:
            for line in iter(lambda: stream.readline(_LONGEST_LINE), ""):
                if "\0" in line:
                    raise _not_text(label, "it holds bytes of zero")
                if not line.isspace():
                    yield (line,)
    except UnicodeDecodeError as error:
        raise _not_text(label, str(error)) from error


def _not_text(label: str, why: str) -> DataError:
    return DataError(f"{label} is not plain text in UTF-8: {why}\nhint: give text, or one of {', '.join(_ROW_FILES)}")


def _read_rows(label: str, column: str | None, columns: dict[str, tuple[str, ...]]) -> Documents:
    datasets = require("datasets", "eval")
    kind = _ROW_FILES[Path(label).suffix]
    try:
        with datasets_bars_off():
            rows = datasets.load_dataset(kind, data_files=label, split=_SPLIT, streaming=True)
    except Exception as error:  # the reader of each file format has errors of its own
        raise _unreadable(label, error) from error
    return _documents(rows, label, column, columns)


def _documents(rows: Any, label: str, column: str | None, columns: dict[str, tuple[str, ...]]) -> Documents:
    chosen: tuple[str, ...] = ()
    for batch in _batches(rows, label):
        if not chosen:
            chosen = columns[label] = _text_columns(batch, label, column)
        for texts in zip(*(_checked(batch, name, label) for name in chosen), strict=True):
            yield tuple(text for text in texts if text is not None)


def _batches(rows: Any, label: str) -> Iterator[dict[str, list[Any]]]:
    try:
        yield from rows.iter(batch_size=_BATCH)
    except Exception as error:  # as above; rows are read while iterating
        raise _unreadable(label, error) from error


def _unreadable(label: str, error: Exception) -> DataError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return DataError(f"{label} cannot be read: {lines[0]}\nhint: `datasets.load_dataset` has to read it")


def _text_columns(batch: dict[str, list[Any]], label: str, asked: str | None) -> tuple[str, ...]:
    strings = [name for name, values in batch.items() if any(isinstance(value, str) for value in values)]
    kinds = {name: type(next((v for v in values if v is not None), None)).__name__ for name, values in batch.items()}
    listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    if asked is not None and asked not in strings:
        what = "holds no text" if asked in batch else "is not there"
        raise DataError(f"column {asked!r} of {label} {what}; there are {listed}\nhint: choose one of type str")
    if not strings:
        raise DataError(f"{label} has no column of strings; there are {listed}\nhint: write the texts to one")
    return (asked,) if asked is not None else ("text",) if "text" in strings else tuple(strings)


def _checked(batch: dict[str, list[Any]], name: str, label: str) -> list[str | None]:
    values = batch.get(name, [None] * len(next(iter(batch.values()))))
    wrong = next((value for value in values if not isinstance(value, str | None)), None)
    if wrong is not None:
        raise DataError(f"column {name!r} of {label} holds {wrong!r}, not a text\nhint: choose another column")
    return values
