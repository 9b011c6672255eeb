"""Sensitivities the slow and obvious way: loops over images, positions, outputs and channels, in float64."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def slow_sensitivity(layer: Any, inputs: Tensor, *, channels: Tensor | None = None, maximum: bool = False) -> Tensor:
    """Return (c,) by asking for every product of one channel with one output, by name, one at a time."""
    inputs, weight = inputs.detach().double(), layer.weight.detach().double()
    if isinstance(layer, nn.Linear):
        return _linear(weight, inputs.reshape(-1, layer.in_features), channels)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return _transposed(layer, weight, inputs)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    sides = layer._reversed_padding_repeated_twice
    padded = functional.pad(inputs, sides, mode)
    axes = [
        range(0, size - step * (taps - 1), stride)
        for size, taps, stride, step in zip(
            padded.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True
        )
    ]
    outputs, width = weight.shape[:2]
    found = [0.0] * (width * layer.groups)
    for image, corner, i in itertools.product(padded, itertools.product(*axes), range(outputs)):
        group = i // (outputs // layer.groups)
        taps = [
            slice(at, at + step * (n - 1) + 1, step)
            for at, n, step in zip(corner, layer.kernel_size, layer.dilation, strict=True)
        ]
        patch = image[group * width : (group + 1) * width][(slice(None), *taps)]
        _raise(found, group * width, patch.reshape(width, -1), weight[i].reshape(width, -1), maximum)
    return torch.tensor(found)


def _raise(found: list[float], first: int, patch: Tensor, weight: Tensor, maximum: bool) -> None:
    """Raise the shares of channels from `first` on by those in one output at one position."""
    for a_sign, w_sign in itertools.product((1, -1), (1, -1)):
        products = (a_sign * patch).clamp(min=0) * (w_sign * weight).clamp(min=0)
        denominator = float(products.sum())
        if denominator <= torch.finfo(torch.float32).eps:
            continue
        for j, own in enumerate(products):
            numerator = float(own.max()) if maximum else float(own.sum())
            found[first + j] = max(found[first + j], numerator / denominator)


def _linear(weight: Tensor, rows: Tensor, channels: Tensor | None) -> Tensor:
    members = [[j] for j in range(weight.shape[1])]
    if channels is not None:
        members = [[j for j, own in enumerate(channels.tolist()) if own == c] for c in range(int(channels.max()) + 1)]
    longest = max(map(len, members))

    def spread(row: Tensor) -> Tensor:
        return torch.stack([functional.pad(row[own], (0, longest - len(own))) for own in members])

    found = [0.0] * len(members)
    for row, outputs in itertools.product(rows, weight):
        _raise(found, 0, spread(row), spread(outputs), False)
    return torch.tensor(found)


def _transposed(layer: Any, weight: Tensor, inputs: Tensor) -> Tensor:
    """Return (c,) from the transposed convolution itself, called with one channel and one pair of signs at a time."""
    call = {nn.ConvTranspose1d: functional.conv_transpose1d, nn.ConvTranspose2d: functional.conv_transpose2d}[
        type(layer)
    ]
    width = layer.in_channels // layer.groups
    found = torch.zeros(layer.in_channels, dtype=torch.float64)
    for a_sign, w_sign in itertools.product((1, -1), (1, -1)):
        part, signed = (a_sign * inputs).clamp(min=0), (w_sign * weight).clamp(min=0)
        settings = (None, layer.stride, layer.padding, layer.output_padding)
        for group in range(layer.groups):
            own = slice(group * width, (group + 1) * width)
            total = call(part[:, own], signed[own], *settings, 1, layer.dilation)
            for j in range(group * width, (group + 1) * width):
                single = call(part[:, j : j + 1], signed[j : j + 1], *settings, 1, layer.dilation)
                shares = torch.where(total > torch.finfo(torch.float32).eps, single / total, 0)
                found[j] = max(float(found[j]), float(shares.nan_to_num(0, math.inf).max()))
    return found.float()
