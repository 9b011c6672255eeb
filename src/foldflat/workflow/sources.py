"""What MODEL means on the command line: a folder, a hub name, or a file with one table."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from foldflat.checkpoint import load
from foldflat.errors import ModelNotFoundError
from foldflat.model.hub.reading import load_pretrained, transformer_module_path
from foldflat.model.manifest import MANIFEST
from foldflat.workflow.table_files import open_rows

__all__ = ["Source", "open_source"]


@dataclass(frozen=True)
class Source:
    """Hold a model and where it came from.

    Attributes:
        text: as the user gave it.
        kind: "table", "transformers", "sentence-transformers" or "foldflat" (already compressed).
        model: a module, or a table (n, d), on the meta device where it is not held.
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
    rows = open_rows(text)
    if rows is not None:
        return Source(text, "table", rows[: rows.shape[0]])
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
