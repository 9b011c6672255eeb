"""Every layer with channels as one kind of thing: a convolution without padding over prepared signals."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn import functional

from foldflat.axes import blocks, compute_dtype
from foldflat.errors import DataError, UnsupportedModelError

__all__ = ["Windows", "full_precision", "windows_of"]

_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


@dataclass(frozen=True)
class Windows:
    """Say what a layer multiplies: `weight` with a window of the signals (n, c, sizes) at each position.

    Attributes:
        weight: (o, c / groups, kernel), as an unpadded convolution takes it.
        stride: steps between neighbouring windows, one a spatial axis.
        dilation: steps between the taps of one window, one a spatial axis.
        groups: groups of channels that outputs read.
        prepare: from the layer's own inputs, a batch, to signals: pads, spreads or reorders them.
    """

    weight: Tensor
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    prepare: Callable[[Tensor], Tensor]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Return the number of taps along each spatial axis."""
        return tuple(self.weight.shape[2:])

    @property
    def area(self) -> int:
        """Return the number of taps of a window."""
        return math.prod(self.kernel)

    @property
    def n_channels(self) -> int:
        """Return c, the number of input channels."""
        return self.weight.shape[1] * self.groups

    def positions(self, sizes: torch.Size) -> tuple[int, ...]:
        """Return how many windows signals of `sizes` hold along each axis; below 1 where not one fits."""
        axes = zip(sizes, self.kernel, self.stride, self.dilation, strict=True)
        return tuple((size - dilation * (taps - 1) - 1) // stride + 1 for size, taps, stride, dilation in axes)

    def convolve(self, signals: Tensor, weight: Tensor, groups: int) -> Tensor:
        """Return the products (n, o, positions) of other weights (o, c / groups, kernel) with the same windows."""
        convolve = _CONVOLVE[len(self.kernel)]
        return convolve(signals, weight, None, self.stride, 0, self.dilation, groups)

    def single(self, signals: Tensor) -> Tensor:
        """Return (n, c, positions) what windows of a single tap read."""
        return signals[(slice(None), slice(None), *(slice(None, None, step) for step in self.stride))]

    def corners(self, signals: Tensor) -> Tensor:
        """Return (positions,) where the window of channel 0 begins in one image of contiguous `signals`."""
        return _offsets(self.positions(signals.shape[2:]), self.stride, signals)

    def taps(self, signals: Tensor) -> Tensor:
        """Return (kernel area,) where each tap lies, counted from the window's beginning."""
        return _offsets(self.kernel, self.dilation, signals)

    def pieces(self, signals: Tensor, width: int, elements: int) -> Iterator[Tensor]:
        """Yield contiguous parts of `signals`, split along the first spatial axis.

        Args:
            signals: (n, c, sizes).
            width: numbers that each position takes.
            elements: numbers that the positions of one part may take together; at least one row of them is taken.
        """
        count, *others = self.positions(signals.shape[2:])
        for rows in blocks(count, width * len(signals) * math.prod(others), elements=elements):
            last = (rows.stop - 1) * self.stride[0] + self.dilation[0] * (self.kernel[0] - 1)
            yield signals[:, :, rows.start * self.stride[0] : last + 1].contiguous()

    def laid_out(self) -> "Windows":
        """Return how to walk signals in which whole windows follow one another, as `lay_out` makes them."""
        area = (self.area,)
        return Windows(self.weight.flatten(2), area, (1,), self.groups, self.prepare)

    def lay_out(self, signals: Tensor, chosen: Tensor) -> Tensor:
        """Return (n, c, patches x kernel area): of each image the windows at the positions `chosen` (n, patches)."""
        signals = signals.contiguous()
        places = self.corners(signals)[chosen][:, :, None] + self.taps(signals)
        return signals.flatten(2).gather(2, places.flatten(1)[:, None].expand(-1, signals.shape[1], -1))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply float32 in float32: no TF32, and on CUDA no cuDNN, whose fast transforms round by the largest number.

    A tiny denominator beside large ones would come out of those wrong by many times its size.
    """
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(enabled=False) if device.type == "cuda" else nullcontext():
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


def windows_of(layer: nn.Module, channels: Tensor | None = None) -> Windows:
    """Return what a convolution, transposed convolution or linear layer multiplies.

    Args:
        layer: Conv1d, Conv2d, Conv3d, their transposed kin, or Linear.
        channels: of a Linear, (in_features,) int64: the channel that each column belongs to.

    Raises:
        UnsupportedModelError: `layer` is none of these.
        DataError: `channels` does not fit the layer.
    """
    if isinstance(layer, nn.Linear):
        return _linear(layer, channels)
    if channels is not None:
        raise DataError(f"`channels` is for Linear, not for {type(layer).__name__}; hint: leave it out")
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return _transposed(layer)
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return _convolution(layer)
    raise UnsupportedModelError(
        f"{type(layer).__name__} has no input channels that sensitivities are defined for; "
        f"hint: Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d and Linear have"
    )


def _offsets(counts: tuple[int, ...], steps: tuple[int, ...], signals: Tensor) -> Tensor:
    """Return where the points of a grid lie in one contiguous channel of `signals`."""
    found = torch.zeros(1, dtype=torch.int64, device=signals.device)
    for count, step, stride in zip(counts, steps, signals.stride()[2:], strict=True):
        found = (found[:, None] + step * stride * torch.arange(count, device=signals.device)).flatten()
    return found


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.weight.detach()
    return weight.to(compute_dtype(weight.dtype))


def _margins(layer: Any) -> list[int]:
    """Return the padding on both sides of each axis, last axis first, as `torch.nn.functional.pad` takes it."""
    if isinstance(layer.padding, str):
        spare = [(taps - 1) * step * (layer.padding == "same") for taps, step in _axes(layer)]
        sides = [(total // 2, total - total // 2) for total in spare]
    else:
        sides = [(width, width) for width in layer.padding]
    return [width for pair in reversed(sides) for width in pair]


def _axes(layer: Any) -> list[tuple[int, int]]:
    return list(zip(layer.kernel_size, layer.dilation, strict=True))


def _convolution(layer: Any) -> Windows:
    margins, mode = _margins(layer), _PADDING_MODES[layer.padding_mode]

    def prepare(inputs: Tensor) -> Tensor:
        return functional.pad(inputs, margins, mode) if any(margins) else inputs

    return Windows(_weight(layer), layer.stride, layer.dilation, layer.groups, prepare)


def _transposed(layer: Any) -> Windows:
    """Write a transposed convolution as a plain one: zeros between the inputs, the kernel turned round."""
    groups, rank = layer.groups, len(layer.kernel_size)
    weight = _weight(layer).unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(tuple(range(2, rank + 2)))
    sides = [step * (taps - 1) - width for (taps, step), width in zip(_axes(layer), layer.padding, strict=True)]
    pairs = reversed(list(zip(sides, layer.output_padding, strict=True)))
    margins = [width for side, more in pairs for width in (side, side + more)]
    between = [slice(None, None, step) for step in layer.stride]

    def prepare(inputs: Tensor) -> Tensor:
        sizes = [(size - 1) * step + 1 for size, step in zip(inputs.shape[2:], layer.stride, strict=True)]
        spread = inputs.new_zeros(*inputs.shape[:2], *sizes)
        spread[(slice(None), slice(None), *between)] = inputs
        return functional.pad(spread, margins)

    return Windows(weight, (1,) * rank, layer.dilation, groups, prepare)


def _linear(layer: nn.Linear, channels: Tensor | None) -> Windows:
    """Write a linear layer as a convolution along its rows, whose window is the columns of one channel."""
    columns = _columns(layer, channels)
    count, width = columns.shape
    weight = functional.pad(_weight(layer), (0, 1))[:, columns.to(layer.weight.device)]

    def prepare(inputs: Tensor) -> Tensor:
        rows = inputs[None] if inputs.dim() == 2 else inputs.flatten(1, -2)
        if channels is not None:
            rows = functional.pad(rows, (0, 1)).index_select(2, columns.flatten().to(inputs.device))
        signals: Tensor = rows.unflatten(2, (count, width)).transpose(1, 2).flatten(2)
        return signals

    return Windows(weight, (width,), (1,), 1, prepare)


def _columns(layer: nn.Linear, channels: Tensor | None) -> Tensor:
    """Return (c, most columns of one channel): the columns of every channel, filled up with `in_features`."""
    if channels is None:
        return torch.arange(layer.in_features)[:, None]
    channels = channels.cpu()
    if channels.shape != (layer.in_features,) or channels.dtype != torch.int64 or int(channels.min()) < 0:
        raise DataError(
            f"`channels` is {channels.dtype} of shape {tuple(channels.shape)}; a Linear of {layer.in_features} columns "
            f"takes int64 of shape ({layer.in_features},), none negative; hint: "
            f"torch.arange(c).repeat_interleave(positions) fits what nn.Flatten makes of (c, positions)"
        )
    counts = torch.bincount(channels)
    columns = torch.full((len(counts), int(counts.max())), layer.in_features)
    order = channels.argsort(stable=True)
    ranks = torch.arange(len(order)) - (counts.cumsum(0) - counts)[channels[order]]
    columns[channels[order], ranks] = order
    return columns
