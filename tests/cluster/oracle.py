"""What the clustering computes, the slow and obvious way: numpy, float64, full SVDs, no Gram matrices."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def tail_energy(rows: Array, rank: int, weights: Array | None = None) -> float:
    """Return the weighted squared distance of rows to the best subspace of dimension `rank`, by a full SVD."""
    return float(spectrum(rows, weights)[rank:].sum())


def spectrum(rows: Array, weights: Array | None = None) -> Array:
    """Return (d,) squared singular values of the weighted rows, largest first, zeros included."""
    scaled = rows.astype(np.float64) if weights is None else rows * np.sqrt(weights)[:, None]
    energies = np.zeros(rows.shape[1])
    values = np.linalg.svd(scaled, compute_uv=False) ** 2 if len(rows) else energies[:0]
    energies[: len(values)] = values
    return energies


def residual_cost(rows: Array, labels: Array, bases: Sequence[Array], weights: Array | None = None) -> float:
    """Return the weighted sum of squared residuals, in float64 from the residuals themselves."""
    total = 0.0
    for row, label, weight in zip(rows.astype(np.float64), labels, _ones(rows, weights), strict=True):
        basis = bases[label].astype(np.float64)
        residual = row - basis.T @ (basis @ row)
        total += weight * float(residual @ residual)
    return total


def energy(rows: Array, weights: Array | None = None) -> float:
    """Return the weighted sum of squared lengths."""
    return float(_ones(rows, weights) @ np.square(rows.astype(np.float64)).sum(1))


def parameters(labels: Array, ranks: Iterable[int], d: int) -> int:
    """Count n_1 r_1 + .. + n_k r_k coefficients and (r_1 + .. + r_k) d entries of bases, one by one."""
    ranks = list(ranks)
    return sum(ranks[label] for label in labels) + sum(rank * d for rank in ranks)


def cheapest_ranks(gains: Array, prices: Array, budget: float) -> float:
    """Return the least energy lost within a budget, by trying every combination of ranks."""
    k, d = gains.shape
    losses = [
        sum(float(gains[i, rank:].sum()) for i, rank in enumerate(ranks))
        for ranks in product(range(d + 1), repeat=k)
        if np.dot(ranks, prices) <= budget * (1 + 1e-12)
    ]
    return min(losses)


def _ones(rows: Array, weights: Array | None) -> Array:
    return np.ones(len(rows)) if weights is None else weights
