"""Which directions are worth their parameters: from spectra to ranks, without torch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Allocation", "allocate_at_multiplier", "allocate_within_budget", "largest_equal_rank"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Allocation:
    """Say how many directions each cluster keeps.

    Attributes:
        ranks: (k,) directions kept.
        multiplier: the Lagrange multiplier: energy that one parameter must save to be kept.
        parameters: numbers stored, sum of rank x price.
    """

    ranks: NDArray[np.int64]
    multiplier: float
    parameters: float


def allocate_at_multiplier(gains: Array, prices: Array, multiplier: float) -> Allocation:
    """Keep every direction whose gain exceeds `multiplier` x its price.

    Args:
        gains: (k, d) energy that each direction saves, largest first in each row.
        prices: (k,) parameters that one direction of the cluster costs (its rows plus its basis vector).
        multiplier: at least zero.
    """
    ranks = (gains > multiplier * prices[:, None]).sum(1)
    return Allocation(ranks, multiplier, float(ranks @ prices))


def allocate_within_budget(gains: Array, prices: Array, budget: float, *, fill: bool = False) -> Allocation:
    """Keep the directions of largest gain per parameter until the budget is spent.

    This is the solution of the Lagrangian relaxation; its multiplier is that of the first direction left out.
    With `fill`, cheaper directions that still fit are added afterwards.

    Args:
        gains: (k, d) energy that each direction saves, largest first in each row.
        prices: (k,) parameters that one direction of the cluster costs; clusters without rows save nothing.
        budget: parameters to spend.
    """
    k, d = gains.shape
    ratios = (gains / prices[:, None]).ravel()
    # a stable sort keeps the directions of one cluster in order when ratios tie
    order = np.argsort(-ratios, kind="stable")
    order = order[ratios[order] > 0]
    clusters = order // d
    spent = np.cumsum(prices[clusters])
    taken = int(np.searchsorted(spent, budget * (1 + 1e-12), side="right"))
    ranks = np.bincount(clusters[:taken], minlength=k)
    multiplier = float(ratios[order[taken]]) if taken < len(order) else 0.0
    parameters = float(ranks @ prices)
    if fill:
        parameters = _fill(ranks, clusters[taken:], prices, budget, parameters)
    return Allocation(ranks, multiplier, parameters)


def _fill(
    ranks: NDArray[np.int64], waiting: NDArray[np.int64], prices: Array, budget: float, parameters: float
) -> float:
    closed: set[int] = set()
    for cluster in waiting.tolist():
        if cluster in closed:
            continue
        if parameters + prices[cluster] > budget:
            closed.add(cluster)
            if len(closed) == len(ranks):
                break
            continue
        ranks[cluster] += 1
        parameters += float(prices[cluster])
    return parameters


def largest_equal_rank(n: int, d: int, k: int, budget: float, basis_price: float | None = None) -> int:
    """Return the largest rank j with n j + k j d <= budget, at most d; zero when not even rank 1 fits.

    With `basis_price`, a basis vector costs that many parameters instead of d.

    Source: the parameter count of Maalouf et al., "Deep Learning Meets Projective Clustering", ICLR 2021.
    """
    return min(d, int(budget / (n + k * (d if basis_price is None else basis_price)) + 1e-9))
