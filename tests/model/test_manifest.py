"""Check when files are hashed: as often as needed to be sure of them, and no oftener."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny import tiny_model
from torch import nn
from transformers import AutoModelForMaskedLM

import foldflat
from foldflat.errors import CheckpointError
from foldflat.model import manifest
from foldflat.model.manifest import file_sha256

WEIGHTS = "model.foldflat.safetensors"


@pytest.mark.parametrize("loader", [foldflat.load, AutoModelForMaskedLM.from_pretrained])
def test_weights_are_hashed_once_by_every_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: Callable[[Path], nn.Module]
) -> None:
    """Not twice, for the file is large; and not only the first time, for it may have changed since."""
    folder = tmp_path / "model"
    foldflat.save(foldflat.compress(tiny_model("bert"), foldflat.EmbeddingRecipe(method="int8")), folder)
    hashed: list[str] = []

    def counted(file: Path) -> str:
        hashed.append(file.name)
        return file_sha256(file)

    monkeypatch.setattr(manifest, "file_sha256", counted)
    for times in (1, 2):
        loader(folder)
        assert hashed.count(WEIGHTS) == times
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="differs from what was saved"):
        loader(folder)
