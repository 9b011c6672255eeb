"""Folders of a user's own class are shown without being built; those of transformers by the model itself."""

from pathlib import Path

import pytest
import torch
from torch import nn

import foldflat
from foldflat.errors import CheckpointError
from foldflat.workflow.inspection import inspect_model

WEIGHTS = "model.foldflat.safetensors"


def test_a_pruned_network_shows_its_channels(tmp_path: Path) -> None:
    """The report on them, and the bytes of what is left, which are those of the loaded network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.LazyLinear(4)).eval()
    net(torch.zeros(1, 3, 8, 8))
    result = foldflat.compress(net, foldflat.FilterRecipe(keep_ratio=0.5, method="l2"), torch.rand(4, 3, 8, 8))
    foldflat.save(result, tmp_path / "pruned")
    found = inspect_model(str(tmp_path / "pruned"))
    assert found["tables"] == []
    assert found["size_bytes"] == result.report["size_bytes_after"]
    assert [group["name"] for group in found["pruning"]["groups"]] == [group.name for group in result.plan.groups]


def test_compressed_tables_of_an_own_class_are_listed(tmp_path: Path) -> None:
    """Names, shape, format and bytes are those of the result; a damaged file is an error."""
    net = nn.Sequential(nn.Embedding(300, 16), nn.Linear(16, 2))
    result = foldflat.compress(net, foldflat.EmbeddingRecipe(method="int8"))
    foldflat.save(result, tmp_path / "small")
    found = inspect_model(str(tmp_path / "small"))
    (table,) = found["tables"]
    assert (table["names"], table["shape"], table["stored_as"]) == (["0"], [300, 16], "int8")
    assert table["size_bytes"] == result.report["size_bytes_after"]
    assert found["size_bytes"] == result.report["model_size_bytes_after"]
    assert table["share"] == table["size_bytes"] / found["size_bytes"]
    assert found["pruning"] is None
    content = bytearray((tmp_path / "small" / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (tmp_path / "small" / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match="differs from what was saved"):
        inspect_model(str(tmp_path / "small"))
