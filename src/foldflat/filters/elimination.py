"""Remove channels one by one, the one whose loss the others make good best first."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldflat.filters.covariances import Moments

__all__ = ["Elimination", "eliminate", "refitted"]

_RIDGE = 1e-3
_TERMS = 128


@dataclass(frozen=True)
class Elimination:
    """Hold the order in which a group's channels go.

    Attributes:
        order: (c,) positions within the group, first to go first; the last one stays.
        errors: (c + 1,) error with 0, 1, .., c channels left.
    """

    order: Tensor
    errors: NDArray[np.float64]

    @property
    def scores(self) -> Tensor:
        """Return (c,) float64: by how much the error grows when each channel goes in its turn, never decreasing."""
        scores = torch.empty(len(self.order), dtype=torch.float64)
        scores[self.order] = torch.from_numpy(np.maximum.accumulate(np.diff(self.errors[::-1])))
        return scores


def eliminate(channels: Tensor, readers: list[Moments]) -> Elimination:
    """Remove a group's channels greedily, with the readers' other weights refitted by least squares after each.

    The error is the expected squared change of the readers' outputs, weighted by how much the loss feels each: the
    increase of the loss in the second-order approximation with a Fisher information that is diagonal in outputs, in
    shares of what each reader costs if it reads nothing.

    Args:
        channels: (c,) channel numbers.
        readers: of every layer that reads them.

    Source: ours; block-wise optimal brain surgeon (Hassibi and Stork, NIPS 1992) on the least-squares problem of He
    et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017.
    """
    systems = [
        _System(moments, group, blocks)
        for moments in readers
        for group, columns in enumerate(moments.columns)
        if (blocks := _blocks(columns, channels)) is not None
    ]
    c = len(channels)
    left = torch.ones(c, dtype=torch.bool)
    order, errors = [], np.zeros(c + 1)
    for count in range(c - 1, -1, -1):
        rises = torch.zeros(c, dtype=torch.float64)
        for system in systems:
            rises += system.rises()
        rises[~left] = torch.inf
        gone = int(rises.argmin())
        errors[count] = errors[count + 1] + max(0.0, float(rises[gone]))
        for system in systems:
            system.remove(gone)
        left[gone] = False
        order.append(gone)
    return Elimination(torch.tensor(order), errors)


def refitted(moments: Moments, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (groups, outputs, columns), zero where channels are gone, and a shift (groups, outputs).

    The least-squares fit of the layer's outputs from what is left of its inputs.

    Args:
        moments: of the layer.
        kept: (n_channels,) booleans.
    """
    weights = torch.zeros_like(moments.weights)
    for group, columns in enumerate(moments.columns):
        stays = kept[columns].to(weights.device).nonzero()[:, 0]
        covariance = _regular(moments.covariance[group])
        right = covariance[:, stays]
        solved = torch.linalg.solve(covariance[stays][:, stays], (moments.weights[group].double() @ right).mT)
        weights[group][:, stays] = solved.mT.to(weights.dtype)
    shift = ((moments.weights - weights) @ moments.mean[:, :, None])[:, :, 0]
    return weights, shift


class _System:
    """Hold one least-squares problem: a layer's group, its inverse covariance, its weights as they are refitted.

    Of the inverse covariance A and the weights W only the columns of channels left are kept. Removing a channel with
    columns q takes X^T A_q from A and W_q X from W, where X = A_qq^-1 A_q. These gather as low-rank terms, from which
    single columns are brought up to date, and are subtracted in one product now and then: a pass over both matrices
    for every channel would read memory and do little else. What the next rise of every channel needs, the blocks A_ii
    and W_i^T W_i, is always up to date.
    """

    def __init__(self, moments: Moments, group: int, blocks: Tensor) -> None:
        """Invert once.

        Args:
            moments: of a layer.
            group: number of one of the layer's groups.
            blocks: (c, size) the columns of each channel.
        """
        c, self._size = blocks.shape
        own = blocks.flatten().to(moments.weights.device)
        self._inverse = torch.linalg.inv(_regular(moments.covariance[group]))
        if not torch.equal(own, torch.arange(len(self._inverse), device=own.device)):
            self._inverse = _chosen(self._inverse, own)
        self._weights = moments.importance[group].double().sqrt()[:, None] * moments.weights[group][:, own].double()
        self._left = torch.ones(c, dtype=torch.bool)
        # channels whose columns are still held, and where each is among them
        self._held, self._place = torch.arange(c), torch.arange(c)
        self._own = _diagonal(self._inverse.unflatten(0, (c, -1)).unflatten(2, (c, -1)))
        self._squares = torch.stack([block.mT @ block for block in self._weights.split(self._size, 1)])
        self._make_room()

    def rises(self) -> Tensor:
        """Return (c,) by how much the error grows if each channel goes next; of gone ones anything."""
        rises = torch.zeros(len(self._place), dtype=torch.float64)
        solved = torch.linalg.solve(self._own, self._squares)
        rises[self._held] = solved.diagonal(dim1=1, dim2=2).sum(1).cpu()
        return rises

    def remove(self, channel: int) -> None:
        place, size = int(self._place[channel]), self._size
        at = slice(place * size, (place + 1) * size)
        before, next_ = slice(self._terms), slice(self._terms, self._terms + size)
        past = self._solved[before, at]
        rows = self._inverse[at] - past.mT @ self._rows[before]
        solved = torch.linalg.solve(rows[:, at], rows)
        lost = (self._weights[:, at] - self._lost[before].mT @ past).mT
        products = lost @ self._weights - (lost @ self._lost[before].mT) @ self._solved[before]
        change = products - 0.5 * products[:, at] @ solved
        x, a, v = torch.stack((solved, rows, change)).unflatten(2, (-1, size)).permute(0, 2, 3, 1)
        self._own -= x @ a.mT
        self._squares -= x @ v.mT + v @ x.mT
        # nothing is left of its block, and nobody asks for its rise
        self._own[place] = torch.eye(size, dtype=self._own.dtype, device=self._own.device)
        self._left[channel] = False
        self._solved[next_], self._rows[next_], self._lost[next_] = solved, rows, lost
        self._terms += size
        if self._terms + size > len(self._solved):
            self._settle()

    def _settle(self) -> None:
        """Subtract what has gathered, and let go of channels that are gone."""
        stays = self._left[self._held]
        self._held = self._held[stays]
        self._place[self._held] = torch.arange(len(self._held))
        stays = stays.to(self._own.device)
        self._own, self._squares = self._own[stays], self._squares[stays]
        columns = stays.repeat_interleave(self._size).nonzero()[:, 0]
        gathered = slice(self._terms)
        solved, rows = self._solved[gathered, columns], self._rows[gathered, columns]
        self._inverse = _chosen(self._inverse, columns).addmm_(solved.mT, rows, alpha=-1)
        self._weights = self._weights[:, columns].addmm_(self._lost[gathered].mT, solved, alpha=-1)
        self._make_room()

    def _make_room(self) -> None:
        """Make room for terms: X (terms, columns), A_q (terms, columns) and W_q (terms, outputs)."""
        room, (outputs, columns) = max(_TERMS, self._size), self._weights.shape
        self._solved, self._rows = self._inverse.new_empty(2, room, columns)
        self._lost = self._inverse.new_empty(room, outputs)
        self._terms = 0


def _blocks(columns: Tensor, channels: Tensor) -> Tensor | None:
    """Return (c, columns of each) where channels are read; None where none is."""
    found = [(columns == channel).nonzero()[:, 0] for channel in channels.tolist()]
    # a channel that this group of a convolution does not read cannot occur: groups keep equal sizes
    return torch.stack(found) if any(len(block) for block in found) else None


def _diagonal(matrix: Tensor) -> Tensor:
    """Return (c, size, size) the blocks on the diagonal of (c, size, c, size)."""
    blocks: Tensor = matrix.diagonal(dim1=0, dim2=2)
    return blocks.permute(2, 0, 1).contiguous()


def _chosen(matrix: Tensor, entries: Tensor) -> Tensor:
    return matrix.index_select(0, entries).index_select(1, entries)


def _regular(covariance: Tensor) -> Tensor:
    ridge = _RIDGE * covariance.diagonal().double().mean().clamp_min(1e-30)
    regular = covariance.double().clone()
    regular.diagonal().add_(ridge)
    return regular
