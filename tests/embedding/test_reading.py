"""Check that rows of many classes are read as each class alone, and what is derived is not kept."""

import copy

import pytest
import torch
from torch import Tensor

from foldflat.embedding.mixed import ClassLayout, MixedEmbedding
from foldflat.embedding.trellis import decode, window_values

N, D = 200, 24
PAIRS = ((8, 4, 3, 1, 0, 0), (1, 0, 1, 6, 4, 4), (0,) * 6, (16, 8), (2, 1, 1, 4, 4, 4))
BASES = (0, 0, 1, 1, 0)
RANKS = (12, 4)


def coded_layer(padding_idx: int | None = None) -> MixedEmbedding:
    """Return a layer of five classes in two bases: short and long rows, gaps, second numbers, none at all."""
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(len(PAIRS), (N,), generator=source)
    if padding_idx is not None:
        labels[padding_idx] = len(PAIRS)
    sizes = torch.bincount(labels)[: len(PAIRS)].tolist()
    layouts = [ClassLayout(size, *rest) for size, *rest in zip(sizes, BASES, PAIRS, strict=True)]
    layer = MixedEmbedding(N, D, layouts, RANKS, padding_idx=padding_idx)
    layer.codes.copy_(torch.randint(256, layer.codes.shape, generator=source))
    for tensor in (layer.scales, layer.bases, layer.fixed):
        tensor.copy_(torch.randn(tensor.shape, generator=source))
    layer.window_values.copy_(window_values())
    layer.set_labels(labels)
    return layer


def slow_table(layer: MixedEmbedding) -> Tensor:
    """Return the table (N, D), class after class, as the codes are defined."""
    table = torch.zeros(N, D)
    codes, scales = layer.codes, layer.scales.float()
    bases = layer.bases.float().split(list(layer.ranks))
    for i, layout in enumerate(layer.layouts):
        n_bytes, coded = layout.schedule.n_bytes, layout.schedule.coded
        own, codes = codes[: layout.size * n_bytes].view(layout.size, n_bytes), codes[layout.size * n_bytes :]
        factors, scales = scales[: len(coded)], scales[len(coded) :]
        if n_bytes:
            values = decode(own, layout.schedule, layer.window_values)
            table[layer.assignment == i] = (values * factors) @ bases[layout.basis][coded]
    if layer.padding_idx is not None:
        table[layer.padding_idx] = layer.fixed[0]
    return table


@pytest.mark.parametrize("padding_idx", [None, 11])
@pytest.mark.parametrize("batch", [1, 5, 400])
def test_rows_of_many_classes_are_those_of_each_alone(padding_idx: int | None, batch: int) -> None:
    """Whatever classes meet in a batch, in whatever order and how often: but for the order of sums, the same rows."""
    layer = coded_layer(padding_idx)
    ids = torch.randint(N, (batch,), generator=torch.Generator().manual_seed(batch))
    torch.testing.assert_close(layer(ids), slow_table(layer)[ids])


@pytest.mark.parametrize("gradients", [False, True])
def test_logits_of_many_classes_are_products_with_their_rows(gradients: bool) -> None:
    """With and without gradients, which take other ways to the order of the rows; and they reach the hidden vectors."""
    layer, table = coded_layer(11), slow_table(coded_layer(11))
    hidden = torch.randn(3, D, generator=torch.Generator().manual_seed(1), requires_grad=gradients)
    with torch.set_grad_enabled(gradients):
        logits = layer.logits(hidden)
        torch.testing.assert_close(logits, hidden @ table.T, atol=1e-4, rtol=1e-4)
    if gradients:
        logits.sum().backward()
        torch.testing.assert_close(hidden.grad, table.sum(0).expand(3, D), atol=1e-3, rtol=1e-4)


def test_what_is_derived_is_not_copied_with_the_layer_and_scales_stay_live() -> None:
    """A copy derives its own, nothing is stored; a scale that changes after a look-up changes the rows."""
    layer = coded_layer()
    names = set(layer.state_dict())
    rows = layer(torch.arange(N))
    assert set(layer.state_dict()) == names
    twin = copy.deepcopy(layer)
    assert layer._reader._tables
    assert not twin._reader._tables
    twin.scales.mul_(2)
    torch.testing.assert_close(twin(torch.arange(N)), 2 * rows)
    assert torch.equal(layer(torch.arange(N)), rows)
