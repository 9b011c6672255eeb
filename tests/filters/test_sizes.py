"""Check predicted sizes by hand and against networks that were really pruned."""

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.nets import NETS, built, images
from torch import Tensor, nn

from foldflat.filters.sizes import NetworkSize, Sizes
from foldflat.model.channels import ChannelMap, trace_channels
from foldflat.model.removal import attributes_after, remove_channels
from foldflat.model.size import model_size_bytes
from foldflat.model.trial import kept_axes, tried


@functools.cache
def known(name: str) -> tuple[nn.Module, ChannelMap]:
    """Return a network and its channels, traced once."""
    model = built(name)
    return model, tried(model, trace_channels(model, images()), images())


def counted_macs(model: nn.Module) -> int:
    """Return the multiplications of one example that layers really do, seen from outside."""
    total = 0

    def count(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += output[0].numel() * layer.weight.shape[1]
        elif layer.transposed:
            total += inputs[0][0].numel() * layer.weight[0].numel()
        else:
            total += output[0].numel() * layer.weight[0].numel()

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(images())
    for handle in handles:
        handle.remove()
    return total


def test_golden_sizes() -> None:
    """Convolution, norm and linear layer: 16 x 16 positions, and the norm's counter is bytes only."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    ).eval()
    channels = trace_channels(model, images())
    size = NetworkSize(model, channels)
    every = torch.ones(channels.n_channels, dtype=torch.bool)
    parameters = 4 * 27 + 4 + 4 + 4 + 5 * 16 + 5
    assert size.after(every) == Sizes(parameters, 256 * 108 + 80, 4 * (parameters + 4 + 4) + 8)
    every[next(group.channels for group in channels.groups if group.name == "0")[:3]] = False
    parameters = 27 + 1 + 1 + 1 + 5 * 4 + 5
    assert size.after(every) == Sizes(parameters, 256 * 27 + 20, 4 * (parameters + 1 + 1) + 8)


@pytest.mark.parametrize("name", NETS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=4, deadline=None)
def test_predictions_equal_the_network_that_was_really_pruned(name: str, seed: int) -> None:
    """Whatever is kept."""
    model, channels = known(name)
    kept = torch.ones(channels.n_channels, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for group in channels.free_groups:
        gone = int(torch.randint(len(group.channels), (1,), generator=generator))
        kept[group.channels[torch.randperm(len(group.channels), generator=generator)[:gone]]] = False
    smaller = remove_channels(model, kept_axes(channels, kept), attributes_after(model, channels, kept))
    parameters = sum(parameter.numel() for parameter in smaller.parameters())
    expected = Sizes(parameters, counted_macs(smaller), model_size_bytes(smaller))
    assert NetworkSize(model, channels).after(kept) == expected


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, stride=2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(self.stem(x)))).mean((2, 3))


def test_a_weight_of_two_layers_is_stored_once_and_multiplied_twice() -> None:
    """By each at its own positions."""
    model = Tied().eval()
    channels = trace_channels(model, images())
    found = NetworkSize(model, channels).after(torch.ones(channels.n_channels, dtype=torch.bool))
    assert found.parameters == 16 + 16 + 4 + 4
    assert found.macs == counted_macs(model) == 256 * 12 + 256 * 16 + 64 * 16
