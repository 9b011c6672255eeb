"""Check that a layer's inputs, as rows, times its weights, as columns, are its outputs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foldflat.filters.readers import (
    columns_of,
    merged_outputs,
    outputs_of,
    set_weights,
    weights_of,
    windows_of_inputs,
)

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 7, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 5, 3)),
    "uneven": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 2)), (2, 4, 9, 6)),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=(2, 3)), (2, 4, 11, 12)),
    "same": (lambda: nn.Conv2d(4, 6, (3, 5), padding="same", dilation=2), (2, 4, 9, 9)),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, padding=1, groups=2), (2, 6, 5, 5)),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 6, 6)),
    "circular": (lambda: nn.Conv1d(4, 6, 3, padding=2, padding_mode="circular"), (2, 4, 9)),
    "replicated": (lambda: nn.Conv2d(4, 6, 3, padding=(1, 0), padding_mode="replicate"), (2, 4, 6, 6)),
    "linear": (lambda: nn.Linear(5, 3), (7, 5)),
    "linear of positions": (lambda: nn.Linear(5, 3), (2, 4, 6, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 5, 3)),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(4, 6, (2, 3), stride=(2, 3), groups=2), (2, 4, 3, 3)),
}


def made(name: str) -> tuple[Any, Tensor]:
    """Return a layer without bias, in float64, and inputs of it."""
    build, shape = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = build().double()
        layer.bias = None
        return layer, torch.randn(shape, dtype=torch.float64)


def in_place(layer: Any, products: Tensor, outputs: Tensor) -> Tensor:
    """Put products (groups, rows, outputs of a group) where the layer's own outputs have them."""
    n = len(outputs)
    if isinstance(layer, nn.Linear):
        return products[0].reshape(outputs.shape)
    if not layer.transposed:
        return products.permute(1, 0, 2).reshape(n, -1, products.shape[0] * products.shape[2]).mT.reshape(outputs.shape)
    high, wide = layer.kernel_size
    groups, rows, columns = products.shape
    height, width = outputs.shape[2] // high, outputs.shape[3] // wide
    parts = products.reshape(groups, n, height, width, columns // (high * wide), high, wide)
    assert groups * rows * columns == outputs.numel()
    return parts.permute(1, 0, 4, 2, 5, 3, 6).reshape(outputs.shape)


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_columns_are_the_outputs(name: str) -> None:
    """Whatever the stride, padding, dilation and groups."""
    layer, inputs = made(name)
    products = windows_of_inputs(layer, inputs) @ weights_of(layer).mT
    expected = layer(inputs)
    torch.testing.assert_close(in_place(layer, products, expected), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_a_column_belongs_to_the_channel_that_it_reads(name: str) -> None:
    """Without one input channel, the columns of just that channel are zero."""
    layer, inputs = made(name)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    ids = torch.arange(10, 10 + inputs.shape[axis])
    columns = columns_of(layer, ids)
    assert columns.shape == (len(weights_of(layer)), weights_of(layer).shape[2])
    ones = torch.ones_like(inputs).index_fill(axis, torch.tensor([1]), 0)
    silent = windows_of_inputs(layer, ones).sum(1) == 0
    assert torch.equal(silent, columns == 11)


@pytest.mark.parametrize("name", LAYERS)
def test_weights_go_there_and_back(name: str) -> None:
    """`set_weights` undoes `weights_of`."""
    layer, _ = made(name)
    assert torch.equal(set_weights(layer, weights_of(layer)), layer.weight)


@pytest.mark.parametrize("name", LAYERS)
def test_numbers_of_outputs_go_there_and_back(name: str) -> None:
    """Rows of the weights that make one output channel carry its number; its mean is that of the outputs."""
    layer, inputs = made(name)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    outputs = layer(inputs)
    numbers = torch.arange(outputs.shape[axis], dtype=torch.float64)
    assert outputs_of(layer, numbers).shape == weights_of(layer).shape[:2]
    assert torch.equal(merged_outputs(layer, outputs_of(layer, numbers)), numbers)
    means = (windows_of_inputs(layer, inputs) @ weights_of(layer).mT).mean(1)
    torch.testing.assert_close(merged_outputs(layer, means), outputs.movedim(axis, -1).flatten(0, -2).mean(0))


def test_overlapping_windows_of_a_transposed_layer_add_up() -> None:
    """Each inner output is reached from kernel area / stride area positions: a constant input shows it."""
    layer = nn.ConvTranspose2d(2, 3, 4, stride=2, bias=False).double()
    inputs = torch.ones(1, 2, 9, 9, dtype=torch.float64)
    shift = (weights_of(layer) @ torch.ones(1, 2, 1, dtype=torch.float64))[:, :, 0]
    inner = layer(inputs)[0, :, 4:-4, 4:-4].mean((1, 2))
    torch.testing.assert_close(merged_outputs(layer, shift), inner)
