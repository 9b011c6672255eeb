"""Centres of points, by scikit-learn's k-means."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

__all__ = ["kmeans_centres"]

Array = NDArray[np.floating[Any]]


def kmeans_centres(points: Array, weights: NDArray[np.float64], k: int, seed: int, *, n_init: int = 1) -> Array:
    """Return at most k centres (k, d) of weighted points (m, d); fewer where fewer points differ.

    Args:
        points: (m, d), changed by rounding: k-means centres them in place, and back again.
        weights: (m,) positive.
        k: centres wanted.
        seed: of the starts.
        n_init: starts, the best of which is kept.
    """
    # k-means needs k distinct points; with fewer, each point is its own centre
    if _distinct_at_most(points, k):
        distinct: Array = np.unique(points, axis=0)
        return distinct
    kmeans = KMeans(k, n_init=n_init, max_iter=25, tol=1e-3, random_state=seed % 2**32, algorithm="lloyd", copy_x=False)
    with warnings.catch_warnings():
        # points that differ by rounding only leave centres without rows; the alternation refills those
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres: Array = kmeans.fit(points, sample_weight=weights.astype(points.dtype)).cluster_centers_
    return centres


def _distinct_at_most(points: Array, limit: int) -> bool:
    if len(np.unique(points[: 2 * limit + 16], axis=0)) > limit:
        return False
    return len(np.unique(points, axis=0)) <= limit
