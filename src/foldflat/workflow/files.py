"""Single files, written beside and renamed."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from foldflat.errors import CheckpointError

__all__ = ["write_json", "write_text"]


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write a file beside and rename it, so that it is there whole or not at all.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_text(file, json.dumps(values, indent=1, allow_nan=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text as `write_json` does."""
    beside = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=file.absolute().parent, prefix=f".{file.stem}.", delete=False, encoding="utf-8"
        ) as stream:
            beside = Path(stream.name)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.chmod(0o644)
        beside.replace(file)
    except OSError as error:
        if beside is not None:
            beside.unlink(missing_ok=True)
        raise CheckpointError(f"{file} cannot be written: {error}\nhint: a folder on a disk with room") from error
