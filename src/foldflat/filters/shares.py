"""The largest share that each channel has in any output at any position, exactly, without computing every share.

A maximum of ratios is no matrix product: all shares of a layer are c times as many as its outputs. Here the
denominators, which are plain convolutions, are computed for all positions, and from them, for every position and
channel, an upper bound of the share in many outputs at once: the largest weights times the inputs, over the least
denominator. Shares are computed only where that bound is above the largest share already found.
"""

import math

import torch
from torch import Tensor

from foldflat.axes import CACHED_ELEMENTS, blocks
from foldflat.filters.windows import Windows

__all__ = ["LargestShares"]

_LEAST_DENOMINATOR = torch.finfo(torch.float32).eps
_OUTPUTS = 128
_TOLERANCE = 1e-6
_LEAST_TILE, _LARGEST_TILE = 4, 64


class LargestShares:
    """Keep the largest share <w_ij, a_j(p)> / sum_k <w_ik, a_k(p)> of each channel j over outputs i and positions p.

    Positive weights and the absolute values of negative ones are outputs of their own. Outputs are scaled to a mean
    denominator of one, which changes no share and brings the bounds of different outputs near to each other, and are
    bounded in blocks of up to 128. Bounds and shares are rounded alike; a share may be missed by up to 1e-6.

    Attributes:
        value: (c,), 0 where a channel was never active.
    """

    def __init__(self, windows: Windows, *, maximum: bool = False) -> None:
        """Begin with shares of zero.

        Args:
            windows: how the layer walks its signals.
            maximum: compare the largest product in a window with the denominator, rather than the sum of them.
        """
        weight = windows.weight.unflatten(0, (windows.groups, -1))
        outputs, channels = int(weight.shape[1]), int(weight.shape[2])
        split = math.ceil(outputs / _OUTPUTS)
        size = math.ceil(outputs / split)
        signs = weight.new_zeros(windows.groups, 2, split * size, *weight.shape[2:])
        signs[:, 0, :outputs] = weight.clamp_min(0)
        signs[:, 1, :outputs] = weight.neg().clamp_min_(0)
        self._windows, self._maximum = windows, maximum
        self._weight = signs.flatten(0, 2)
        self._least = torch.full_like(self._weight.flatten(1)[:, 0], _LEAST_DENOMINATOR)
        self._widest: Tensor | None = None
        self._groups, self._channels, self._split, self._size = windows.groups, channels, 2 * split, size
        self.value: Tensor = weight.new_zeros(windows.n_channels)

    @property
    def width(self) -> int:
        """Return how many numbers `update` holds for each position."""
        return self._groups * self._split * (2 * self._size + 2 * self._channels)

    def update(self, signals: Tensor) -> None:
        """Raise shares by what `signals` (n, c, sizes), non-negative and contiguous, hold."""
        inverses = self._inverses(signals)
        shape = (len(signals), self._groups, 1, self._split, self._size, -1)
        bounds = self._bounds(signals, inverses.view(shape).amax(4))
        search = _Search(self._windows, signals, inverses.transpose(1, 2).reshape(-1, self._size))
        best, positions = bounds.max(2)
        rows, images = torch.nonzero((best > self._wanted()).T, as_tuple=True)
        self._raise(search, rows, images * bounds.shape[2] + positions[images, rows])
        above = (bounds > self._wanted()[:, None]).transpose(0, 1).flatten(1)
        del bounds
        self._raise(search, *torch.nonzero(above, as_tuple=True))

    def _inverses(self, signals: Tensor) -> Tensor:
        """Return (n, outputs, positions): one over every denominator, 0 where that is too small to divide by."""
        denominators = self._windows.convolve(signals, self._weight, self._groups).flatten(2)
        if self._widest is None:
            self._scale(denominators)
        tiny = denominators <= self._least[:, None]
        return denominators.reciprocal_().masked_fill_(tiny, 0)

    def _scale(self, denominators: Tensor) -> None:
        """Scale every output to a mean denominator of one, here and in the denominators themselves."""
        means = denominators.mean((0, 2))
        scale = torch.where(means > _LEAST_DENOMINATOR, means, 1).reciprocal_()
        kernel = self._windows.kernel
        self._weight.mul_(scale.view(-1, 1, *[1] * len(kernel)))
        self._least.mul_(scale)
        denominators.mul_(scale[:, None])
        widest = self._weight.view(self._groups, self._split, self._size, self._channels, -1).amax(2).transpose(1, 2)
        self._widest = widest.reshape(-1, 1, *kernel)

    def _bounds(self, signals: Tensor, inverses: Tensor) -> Tensor:
        """Return (n, rows, positions): no share of a channel in a block of outputs is larger.

        A row is one channel and one block of the outputs that read it.
        """
        assert self._widest is not None
        shape = (len(signals), self._groups, self._channels, -1)
        if self._windows.area == 1:
            bounds = self._windows.single(signals).reshape(shape)[:, :, :, None] * inverses
            bounds.mul_(self._widest.view(self._groups, self._channels, self._split, 1))
        else:
            products = self._windows.convolve(signals, self._widest, self._groups * self._channels)
            bounds = products.view(*shape[:3], self._split, -1).mul_(inverses)
        return bounds.flatten(1, 3)

    def _wanted(self) -> Tensor:
        """Return (rows,) the bounds that tell nothing new: up to the largest share so far, or all once that is one."""
        wanted = torch.where(self.value >= 1 - _TOLERANCE, torch.inf, self.value + _TOLERANCE)
        return wanted.repeat_interleave(self._split)

    def _raise(self, search: "_Search", rows: Tensor, spots: Tensor) -> None:
        """Raise shares by those of the sorted `rows` at `spots`, in tiles that share the weights of one row."""
        if not len(rows):
            return
        counts = torch.bincount(rows, minlength=len(self.value) * self._split)
        length = min(max(len(rows) // int((counts > 0).sum()), _LEAST_TILE), _LARGEST_TILE)
        tiles = (counts + length - 1) // length
        owners = torch.repeat_interleave(tiles)
        numbers = torch.arange(len(owners), device=rows.device) - (tiles.cumsum(0) - tiles)[owners]
        begins = (counts.cumsum(0) - counts)[owners] + numbers * length
        steps = torch.arange(length, device=rows.device)
        for part in blocks(len(owners), length * (self._size + 3 * search.area), elements=CACHED_ELEMENTS):
            own = owners[part]
            # what a tile lacks is filled with the spots of other rows: no harm, a share is a share at any spot
            chosen = (begins[part, None] + steps).clamp_max_(len(spots) - 1)
            self._raise_tiles(search, own, spots[chosen])

    def _raise_tiles(self, search: "_Search", rows: Tensor, spots: Tensor) -> None:
        """Raise shares by those of `rows` (t,) at `spots` (t, length)."""
        channels, blocks_ = rows // self._split, rows % self._split
        groups, own = channels // self._channels, channels % self._channels
        weight = self._weight.view(self._groups, self._split, self._size, self._channels, -1)
        weights = weight[groups, blocks_, :, own]
        values = search.values(channels, spots)
        inverses = search.inverses((groups * self._split + blocks_)[:, None] + spots * (self._groups * self._split))
        if search.area == 1:
            shares = inverses.mul_(weights.mT).amax(2).mul_(values[:, :, 0])
        elif self._maximum:
            products = torch.stack([a * w for a, w in zip(values.split(1, 2), weights.mT.split(1, 1), strict=True)])
            shares = products.amax(0).mul_(inverses)
        else:
            shares = torch.bmm(values, weights.mT).mul_(inverses)
        self.value.scatter_reduce_(0, channels, shares.flatten(1).amax(1), "amax")


class _Search:
    """Look up windows of signals, and what belongs to them, by spot: image x positions + position."""

    def __init__(self, windows: Windows, signals: Tensor, inverses: Tensor) -> None:
        self._plane = signals[0, 0].numel()
        self._flat, self._inverses = signals.view(-1), inverses
        self._taps = windows.taps(signals)
        images = torch.arange(len(signals), device=signals.device) * signals[0].numel()
        self._corners = (images[:, None] + windows.corners(signals)).flatten()
        self.area = len(self._taps)

    def values(self, channels: Tensor, spots: Tensor) -> Tensor:
        """Return (t, length, kernel area): the windows of `channels` (t,) at `spots` (t, length)."""
        begins = self._corners.index_select(0, spots.flatten()).view(spots.shape) + channels[:, None] * self._plane
        places = begins[:, :, None] + self._taps
        return self._flat.index_select(0, places.flatten()).view(places.shape)

    def inverses(self, lines: Tensor) -> Tensor:
        """Return (t, length, outputs): inverse denominators of one block of outputs at one spot each."""
        return self._inverses.index_select(0, lines.flatten()).view(*lines.shape, -1)
