"""The smallest budget whose loss stays within a bound, in few fits: what truncated SVD loses says where to look."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldflat.axes import blocks

__all__ = ["RatioSearch", "svd_losses"]

_LEAST_RATIO_STEP = 1 / 128
_CLOSE = 0.005
_AIM = 0.995
_GRID = 2048
_LEAST_LOSS = 1e-12

Array = NDArray[np.float64]


@torch.no_grad()
def svd_losses(table: Tensor) -> Array:
    """Return (d + 1,) the share of the energy that truncated SVD loses at each rank from 0 to d."""
    d = table.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64, device=table.device)
    for part in blocks(len(table), 2 * d):
        block = table[part].double()
        gram += block.T @ block
    energies = torch.linalg.eigvalsh(gram).clamp_min(0).cpu().numpy()
    tails: Array = np.concatenate([[0.0], energies.cumsum()])[::-1]
    return tails / max(float(tails[0]), np.finfo(float).tiny)


class RatioSearch:
    """Propose keep ratios until one of them loses little enough and is nearly the smallest that does.

    Subspaces lose less than SVD of as many parameters, by a factor that changes slowly with their number. The
    logarithm of that factor, interpolated between the fits so far, forecasts what another ratio loses.
    """

    def __init__(self, losses: Array, shape: tuple[int, int], limit: float, *, first_advantage: float | None) -> None:
        """Begin with what is known before any fit.

        Args:
            losses: (d + 1,) what SVD loses at each rank.
            shape: (n, d) of the table.
            limit: share of the energy that may be lost.
            first_advantage: logarithm of how many times less than SVD the first fit is thought to lose; None where
                SVD is what is fitted.
        """
        n, d = shape
        self.low, self.high = (n + d) / (n * d), 1.0
        self.limit = limit
        self.ratios: Array = np.linspace(self.low, 1.0, _GRID)
        ranks = self.ratios * n * d / (n + d)
        if first_advantage is None:
            ranks = np.floor(ranks)
        self._svd: Array = np.interp(ranks, np.arange(d + 1), np.log(np.maximum(losses, _LEAST_LOSS)))
        self._advantages: dict[float, float] = {}
        self._first_advantage = first_advantage or 0.0
        self._asked, self._met = 0, False

    def propose(self) -> float | None:
        """Return the next ratio to fit, None when no other can pay or none is left."""
        if self.low >= self.high or (self._met and self._is_close()):
            return None
        self._asked += 1
        narrow = self.high - self.low <= _LEAST_RATIO_STEP
        guess = self._guess()
        # before a table is given up, all of it is tried
        if not self._met and (narrow or guess >= self.high):
            return self.high
        # ever farther from what is known, up to its middle: forecasts that miss end in bisection
        margin = min(_LEAST_RATIO_STEP / 8 * 2**self._asked, (self.high - self.low) / 2)
        return float(min(max(guess, self.low + margin), self.high - margin))

    def refuse(self, ratio: float) -> None:
        """Learn that a ratio is too small for any fit."""
        self.low = ratio

    def learn(self, ratio: float, lost: float, used: float) -> bool:
        """Learn what a ratio loses and how much of it was used; return whether that is within the limit."""
        svd = float(np.interp(used, self.ratios, self._svd))
        self._advantages[used] = svd - math.log(max(lost, _LEAST_LOSS))
        if lost > self.limit:
            self.low = ratio
            return False
        self.high, self._met = min(used, ratio), True
        return True

    def _guess(self) -> float:
        enough = self._forecast() <= math.log(_AIM * self.limit)
        within = self.ratios[enough & (self.ratios > self.low)]
        return float(within[0]) if len(within) else self.high

    def _forecast(self) -> Array:
        """Return the logarithm of what each ratio of the grid is thought to lose."""
        if not self._advantages:
            return self._svd - self._first_advantage
        known = np.array(sorted(self._advantages.items()))
        advantages: Array = np.interp(self.ratios, known[:, 0], known[:, 1])
        return self._svd - advantages

    def _is_close(self) -> bool:
        """Return whether the smallest ratio that will do is thought to save less than half a per cent."""
        if self.high - self.low <= _LEAST_RATIO_STEP:
            return True
        forecast = self._forecast()
        surplus = math.log(self.limit) - float(np.interp(self.high, self.ratios, forecast))
        smaller = np.interp((1 - _CLOSE) * self.high, self.ratios, forecast)
        return surplus <= float(smaller - np.interp(self.high, self.ratios, forecast))
