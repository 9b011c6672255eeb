"""From error curves to amounts: how much each part keeps so that the whole loses least. No torch."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["convex_slopes", "counts_at"]

Array = NDArray[np.float64]


def convex_slopes(errors: Array) -> Array:
    """Return (c,) by how much each unit lowers an error curve, on its lower convex hull; never increasing.

    Args:
        errors: (c + 1,) error with 0, 1, .., c units, infinite where a number is not allowed.

    A unit inside an edge of the hull gets the edge's slope, so that a threshold on slopes takes whole edges.
    """
    finite = np.flatnonzero(np.isfinite(errors))
    hull = [int(finite[0])]
    for point in finite[1:].tolist():
        while len(hull) > 1 and _slope(errors, hull[-2], hull[-1]) >= _slope(errors, hull[-1], point):
            hull.pop()
        hull.append(point)
    slopes = np.full(len(errors) - 1, np.inf)
    for start, stop in itertools.pairwise(hull):
        slopes[start:stop] = max(0.0, -_slope(errors, start, stop))
    return slopes


def counts_at(slopes: Sequence[Array], prices: Sequence[float], multiplier: float) -> list[int]:
    """Return how many units each part keeps where a unit has to save `multiplier` times its price in error."""
    return [int((slope >= multiplier * price).sum()) for slope, price in zip(slopes, prices, strict=True)]


def _slope(errors: Array, start: int, stop: int) -> float:
    return float(errors[stop] - errors[start]) / (stop - start)
