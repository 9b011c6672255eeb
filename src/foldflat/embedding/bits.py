"""How many bits each direction of each class of rows is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from foldflat.embedding.trellis import LEAST_BYTES, Schedule

__all__ = ["RowClass", "distortions", "pairs_at", "spent"]

_DISTORTION = (1.0, 0.292, 0.0755, 0.0201, 0.00542, 0.0015, 0.00045, 0.000155, 0.00007)
_DISTORTION_OF_HALF = 0.588
"""Share of the variance of normal numbers lost at 0 to 8 bits each, and at one for two of them.

Measured with `foldflat.embedding.trellis` on rows of 64 numbers.
"""

_MOST = 16
_TWOS = np.kron(np.eye(_MOST // 2 - 1), np.ones((2, 2)))

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RowClass:
    """Say what is known of rows that share a basis and a weight.

    Attributes:
        size: number of rows.
        weight: of each.
        variances: (r,) mean squares of their coefficients, r even, largest first but for noise.
        outside: mean square beyond those directions.
    """

    size: int
    weight: float
    variances: Array
    outside: float

    @cached_property
    def losses(self) -> Array:
        """Return (r / 2, 17) what a row of the class loses in each pair of directions at 0 to 16 bits."""
        first, second = self.variances[0::2], self.variances[1::2]
        table = np.zeros((len(first), _MOST + 1))
        table[:, 0] = first + second
        table[:, 1] = _DISTORTION_OF_HALF * (first + second)
        for bits in range(2, _MOST + 1):
            table[:, bits] = first * _DISTORTION[bits - bits // 2] + second * _DISTORTION[bits // 2]
        return table

    @cached_property
    def gains(self) -> Array:
        """Return (r / 2, 16) what each bit of a pair saves, never more than the one before."""
        gains = self.losses[:, :-1] - self.losses[:, 1:]
        # from two bits on each number of a pair gets one in turn, which pays for both together
        gains[:, 2:] = (gains[:, 2:] @ _TWOS) / 2
        return np.minimum.accumulate(gains, axis=1)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Return the places of `gains`, flattened, from the most to the least."""
        return np.argsort(-self.gains, axis=None, kind="stable")


def pairs_at(row_class: RowClass, price: float) -> tuple[tuple[int, ...], float]:
    """Return the bits of each pair of directions where a bit of a row must save `price`, and what a row then loses.

    Bits are bought where they save most, to whole bytes: the number of bytes nearest to what the price allows.
    """
    losses, gains = row_class.losses, row_class.gains
    wanted = int((row_class.weight * gains > price).sum())
    n_bytes = round(wanted / 8)
    n_bytes = 0 if n_bytes < LEAST_BYTES else min(n_bytes, gains.size // 8)
    chosen = np.zeros(gains.size, dtype=bool)
    chosen[row_class.order[: 8 * n_bytes]] = True
    pairs = chosen.reshape(gains.shape).sum(1)
    lost = float(losses[np.arange(len(pairs)), pairs].sum()) + row_class.outside
    return tuple(pairs.tolist()), lost


def spent(classes: Sequence[RowClass], found: Sequence[tuple[int, ...]]) -> int:
    """Return the bytes that all rows take."""
    return sum(row_class.size * (sum(pairs) // 8) for row_class, pairs in zip(classes, found, strict=True))


def distortions(schedule: Schedule) -> Array:
    """Return (coded numbers,) the share of its variance that each number loses, of those that have bits."""
    shares = [[_DISTORTION_OF_HALF] * 2 if numbers == 2 else [_DISTORTION[bits]] for _, numbers, bits in schedule.steps]
    return np.array([share for own in shares for share in own])
