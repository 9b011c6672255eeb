"""Check the output layers that share a compressed table."""

import copy

import pytest
import torch
from tests.embedding.layers import KINDS, dense_composition, gradients, layer_of, random_table, subspace_layer
from torch import nn

from foldflat.embedding.build import head_of
from foldflat.errors import DenseWeightError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12)])
def test_logits_are_products_with_the_dense_table(kind: str, bias: bool, shape: tuple[int, ...]) -> None:
    """Hidden @ table.T + bias, for hidden vectors of any shape, the padding row included."""
    layer = layer_of(kind, padding_idx=4)
    offset = nn.Parameter(random_table(1, 60, seed=7)[0]) if bias else None
    hidden = random_table(1, torch.Size(shape).numel(), seed=8).view(shape)
    expected = hidden @ layer.to_dense().T + (0 if offset is None else offset)
    torch.testing.assert_close(head_of(layer, offset)(hidden), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_follow_the_type_of_the_hidden_vectors(kind: str, dtype: torch.dtype) -> None:
    """In half precision they are finite, in that type, and as close as products of that length can be."""
    head = head_of(layer_of(kind))
    hidden = random_table(5, 12, seed=8)
    exact = head(hidden)
    logits = head.to(dtype)(hidden.to(dtype))
    assert logits.dtype == dtype
    assert (logits.float() - exact).abs().max() < 16 * torch.finfo(dtype).eps * exact.abs().max()


def test_a_tied_head_trains_the_embedding() -> None:
    """Gradients of a loss on logits reach the factors, and equal those through a dense table."""
    layer, _ = subspace_layer(24, 6, (2, 3), padding_idx=4, dtype=torch.float64)
    hidden, weights = random_table(7, 6, seed=8, dtype=torch.float64), random_table(7, 24, seed=9, dtype=torch.float64)
    (head_of(layer)(hidden) * weights).sum().backward()
    found = gradients(layer)
    (hidden @ dense_composition(layer).T * weights).sum().backward()
    torch.testing.assert_close(found, gradients(layer))
    assert all(gradient.any() for gradient in found.values())


def test_shared_parameters_appear_once() -> None:
    """A model lists the factors under the embedding, and of the head its own bias alone."""
    layer, _ = subspace_layer()
    model = nn.ModuleDict({"head": head_of(layer, nn.Parameter(torch.ones(60))), "table": layer})
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert [name for name in names if name.startswith("head.")] == ["head.bias"]
    assert [name for name in model.state_dict() if name.startswith("head.")] == ["head.bias"]


def test_a_deep_copy_of_both_stays_tied() -> None:
    """The copied head multiplies by the copied table."""
    layer, _ = subspace_layer()
    model = copy.deepcopy(nn.ModuleDict({"table": layer, "head": head_of(layer)}))
    assert model["head"].embedding is model["table"]
    assert model["head"].embedding is not layer


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_has_no_weight_but_becomes_a_linear_layer(kind: str) -> None:
    """Reading `weight` is an error; `to_linear` shares a dense one and keeps the bias."""
    layer = layer_of(kind)
    bias = nn.Parameter(random_table(1, 60, seed=7)[0])
    head = head_of(layer, bias)
    with pytest.raises(DenseWeightError, match="stores no dense `weight`"):
        _ = head.weight
    assert not hasattr(head, "weight")
    weight = layer.to_embedding().weight
    linear = head.to_linear(weight)
    assert linear.weight is weight
    assert linear.bias is bias
    hidden = random_table(3, 12, seed=8)
    torch.testing.assert_close(linear(hidden), head(hidden), atol=1e-5, rtol=1e-5)
