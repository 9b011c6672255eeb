"""Say what a model and a task's data are, in a few characters that change when any of it does."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from foldflat.errors import ModelNotFoundError
from foldflat.evaluate.data import read_task
from foldflat.evaluate.glue import glue_task
from foldflat.evaluate.loading import load_tokenizer, model_config
from foldflat.evaluate.names import local_folder
from foldflat.evaluate.optional import require
from foldflat.model.manifest import file_sha256

__all__ = ["data_fingerprint", "model_fingerprint"]

_ROWS = 8192
_SPLITS = ("train", "validation")


def model_fingerprint(model: str | os.PathLike[str]) -> str:
    """Return what identifies the weights, settings and tokenizer of a model folder or hub name.

    Of a folder, the sha256 over the names and contents of its files; README and hidden files do not count. Of a hub
    name, the commit that transformers resolves it to.

    Raises:
        DataError: the model has no tokenizer.
        ModelNotFoundError: there is no such model, or no commit is known of it.
    """
    model_config(model)
    load_tokenizer(model)
    folder = local_folder(model)
    return _hub_commit(str(model)) if folder is None else _folder_sha256(folder)


def _hub_commit(name: str) -> str:
    file = Path(str(require("transformers.utils", "hf").cached_file(name, "config.json")))
    if file.parent.parent.name != "snapshots":
        raise ModelNotFoundError(
            f"the commit of {name!r} is not known, so its weights cannot be told from others\n"
            "hint: download it into a folder, and give that"
        )
    return f"commit {file.parent.name}"


def _folder_sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith(".") and file.suffix != ".md":
            digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return f"sha256 {digest.hexdigest()}"


def data_fingerprint(data: str | os.PathLike[str], task: str) -> str:
    """Return the sha256 over texts and labels of a task's training and validation rows, however they are stored.

    Raises what `load_split` raises: for one DataError for a split or labels that are missing.
    """
    digest = hashlib.sha256(task.encode())
    for split in _SPLITS:
        rows, labels = read_task(data, task, split)
        digest.update(f"{split} {len(rows)} {labels.dtype}".encode())
        digest.update(labels.tobytes())
        for column in glue_task(task).text_columns:
            _add_texts(digest, rows, column)
    return f"sha256 {digest.hexdigest()}"


def _add_texts(digest: Any, rows: Any, column: str) -> None:
    for start in range(0, len(rows), _ROWS):
        digest.update(json.dumps(rows[start : start + _ROWS][column]).encode())
