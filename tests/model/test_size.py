"""Check how bytes and weights are counted and recognised."""

import pytest
import torch
from torch import nn

from foldflat.model.size import model_size_bytes, tensor_sha256


def test_a_shared_tensor_is_counted_once() -> None:
    """Parameters and persistent buffers of every type; a tied output layer adds its bias alone."""
    model = nn.ModuleDict({"table": nn.Embedding(10, 4), "head": nn.Linear(4, 10), "norm": nn.BatchNorm1d(4)})
    separate = 4 * (10 * 4 + 4 * 10 + 10 + 4 * 4) + 8  # the norm's counter is an int64
    assert model_size_bytes(model) == separate
    model["head"].weight = model["table"].weight
    assert model_size_bytes(model) == separate - 4 * 4 * 10
    assert model_size_bytes(model.half()) == (separate - 8 - 160) // 2 + 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_recognised_by_their_numbers(dtype: torch.dtype) -> None:
    """Equal numbers, equal digest, however they lie in memory; another number, shape or type, another digest."""
    tensor = torch.arange(24, dtype=torch.float64).view(6, 4).to(dtype)
    digest = tensor_sha256(tensor)
    assert len(digest) == 64
    assert tensor_sha256(tensor.T.contiguous().T) == digest
    assert tensor_sha256(nn.Parameter(tensor.clone())) == digest
    changed = tensor.clone()
    changed[5, 3] += 1
    others = [changed, tensor.view(4, 6), tensor.to(torch.float64 if dtype != torch.float64 else torch.float32)]
    assert digest not in {tensor_sha256(other) for other in others}
