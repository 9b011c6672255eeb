"""Remove channels one by one, the one whose loss the others make good best first."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldflat.filters.covariances import Moments

__all__ = ["Elimination", "eliminate", "refitted"]

_RIDGE = 1e-3


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
    systems = [_System(moments, group, channels) for moments in readers for group in range(len(moments.weights))]
    systems = [system for system in systems if system.blocks is not None]
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
    """Hold one least-squares problem: a layer's group, its inverse covariance, its weights as they are refitted."""

    def __init__(self, moments: Moments, group: int, channels: Tensor) -> None:
        columns = moments.columns[group]
        found = [(columns == channel).nonzero()[:, 0] for channel in channels.tolist()]
        self.blocks: Tensor | None = None
        if not any(len(block) for block in found):
            return
        # a channel that this group of a convolution does not read cannot occur: groups keep equal sizes
        self.blocks = torch.stack(found).to(moments.weights.device)
        self._inverse = torch.linalg.inv(_regular(moments.covariance[group]))
        self._weights = moments.importance[group].double().sqrt()[:, None] * moments.weights[group].double()
        self._left = torch.ones(len(channels), dtype=torch.bool, device=self._weights.device)

    def rises(self) -> Tensor:
        """Return (c,) by how much the error grows if each channel goes next; of gone ones anything."""
        assert self.blocks is not None
        own = self._inverse[self.blocks[:, :, None], self.blocks[:, None, :]]
        own[~self._left] = torch.eye(own.shape[1], dtype=own.dtype, device=own.device)
        weights = self._weights[:, self.blocks].transpose(0, 1)
        rises: Tensor = (torch.linalg.solve(own, weights.mT) * weights.mT).sum((1, 2))
        return rises.cpu()

    def remove(self, channel: int) -> None:
        assert self.blocks is not None
        block = self.blocks[channel]
        solved = torch.linalg.solve(self._inverse[block][:, block], self._inverse[block])
        self._weights -= self._weights[:, block] @ solved
        self._inverse -= self._inverse[:, block] @ solved
        self._left[channel] = False


def _regular(covariance: Tensor) -> Tensor:
    ridge = _RIDGE * covariance.diagonal().double().mean().clamp_min(1e-30)
    regular = covariance.double().clone()
    regular.diagonal().add_(ridge)
    return regular
