"""Read one split of a data set, from a folder or the hub."""

import hashlib
import os
from pathlib import Path
from typing import Any

from foldflat.errors import DataError, ModelNotFoundError
from foldflat.evaluate.isolation import datasets_bars_off
from foldflat.evaluate.names import local_folder
from foldflat.evaluate.optional import require

__all__ = ["read_split"]


def read_split(
    data: str | os.PathLike[str],
    split: str,
    configuration: str | None = None,
    *,
    example: str = "",
    streaming: bool = False,
) -> Any:
    """Return a split of what `datasets.load_dataset(data, configuration)` reads; nothing is written into a folder.

    `example` is a name on the hub that would do, for the error message. `streaming` reads rows when they are asked
    for, in place of all of them into the cache of `datasets`.

    Raises ModelNotFoundError where there is no such folder or data set; DataError where it cannot be read or
    has no such split.
    """
    datasets = require("datasets", "eval")
    folder = local_folder(data)
    source = str(folder or data)
    what = configuration or "data set"
    try:
        with datasets_bars_off():
            cache = None if folder is None else _cache_of(folder, datasets.config.HF_DATASETS_CACHE)
            splits = datasets.load_dataset(source, configuration, streaming=streaming, cache_dir=cache)
    except (FileNotFoundError, ConnectionError) as error:
        raise ModelNotFoundError(
            f"no {what} in {source!r}{'' if folder else ' (no such folder here)'}: {error}\n"
            f"hint: give a folder in the hub's schema, or {example or 'a name on the hub'} with a connection"
        ) from error
    except Exception as error:  # the reader of each file format has errors of its own
        call = f"{source!r}, {configuration!r}" if configuration else repr(source)
        raise DataError(
            f"{source!r} cannot be read as {what}: {error}\n"
            f"hint: `datasets.load_dataset({call})` has to work; the folder's README.md names the files of each split"
        ) from error
    if split not in splits:
        of = f" of {configuration}" if configuration else ""
        raise DataError(f"{source!r} has no split {split!r}{of}\nhint: one of {', '.join(splits)}")
    return splits[split]


def _cache_of(folder: Path, caches: str | os.PathLike[str]) -> str:
    """Return a cache for the files of a folder as they are now.

    `datasets` 5.2 knows a folder by its last name and its README, so it would hand out the rows of another one that has
    both in common, or those from before a file was written anew.
    """
    place = folder.resolve()
    digest = hashlib.sha256(str(place).encode())
    for file in sorted(place.rglob("*")):
        if file.is_file():
            found = file.stat()
            digest.update(f"{file.relative_to(place)} {found.st_size} {found.st_mtime_ns}\n".encode())
    return str(Path(caches) / "foldflat" / digest.hexdigest()[:32])
