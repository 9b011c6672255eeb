"""Several ranks in one basis: which ones, and what they are worth, without torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_levels", "spending_multiplier"]

_MULTIPLIERS = 16
_LEAST_MULTIPLIER = 1e-6

Array = NDArray[np.float64]


def spending_multiplier(
    captured: Sequence[Array], counts: Sequence[Array], grid: NDArray[np.int64], budget: float, basis_price: float
) -> float:
    """Return the multiplier that spends the budget where every row may keep a number of directions of its own."""
    energy = sum(float(table[:, -1].sum()) for table in captured)

    def spent(multiplier: float) -> float:
        total = 0.0
        for table, sizes in zip(captured, counts, strict=True):
            wanted, longest = _wanted(table, sizes, grid, multiplier, basis_price)
            total += float(sizes @ grid[wanted]) + basis_price * float(grid[longest])
        return total

    # directions that are worth this much take at most the budget
    high = max(energy, np.finfo(float).tiny) / budget
    low = _LEAST_MULTIPLIER * high
    for _ in range(_MULTIPLIERS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if spent(middle) <= budget else (middle, high)
    return high


def _wanted(
    captured: Array, counts: Array, grid: NDArray[np.int64], multiplier: float, basis_price: float
) -> tuple[NDArray[np.int64], int]:
    """Return the best place on the grid for each row of a group, and the last place worth its share of the basis."""
    net = captured - multiplier * counts[:, None] * grid
    longest = int((np.maximum.accumulate(net, 1).sum(0) - multiplier * basis_price * grid).argmax())
    return net[:, : longest + 1].argmax(1), longest


def best_levels(
    captured: Array, counts: Array, grid: NDArray[np.int64], multiplier: float, basis_price: float, levels: int
) -> tuple[list[int], float]:
    """Return at most `levels` ranks for the rows of one group, and the parameters they then take.

    Rows are ordered by the rank that each would choose if it could, and cut into runs that share one: the best cuts by
    dynamic programming.
    """
    q = len(grid)
    if not len(captured):
        return [0], 0.0
    wanted, _ = _wanted(captured, counts, grid, multiplier, basis_price)
    sums = np.zeros((q, q))
    np.add.at(sums, wanted, captured)
    sizes = np.bincount(wanted, weights=counts, minlength=q)
    net = np.zeros((q + 1, q))
    np.cumsum(sums - multiplier * sizes[:, None] * grid, axis=0, out=net[1:])
    runs = net[None, :, :] - net[:, None, :]
    inner, outer = runs.max(2), (runs - multiplier * basis_price * grid).max(2)
    best, cuts = np.full(q + 1, -np.inf), []
    best[0] = 0
    for level in range(levels):
        # the last run pays for the basis
        paths = best[:, None] + np.where(np.arange(q + 1) == q, outer, inner)
        paths[np.tril_indices(q + 1, -1)] = -np.inf
        cuts.append(paths.argmax(0))
        best = paths.max(0)
        best[q] = best[q] if level == levels - 1 else -np.inf
    stop, ranks, used = q, [], 0.0
    for cut in reversed(cuts):
        start = int(cut[stop])
        if start < stop:
            net_of_run = runs[start, stop] - (multiplier * basis_price * grid if stop == q else 0)
            rank = int(grid[net_of_run.argmax()])
            ranks.append(rank)
            used += rank * float(sizes[start:stop].sum())
        stop = start
    return sorted(set(ranks)), used + basis_price * max(ranks)
