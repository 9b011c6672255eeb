"""Projective clustering as a scikit-learn estimator."""

import math
import numbers
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from foldflat.cluster.allocation import largest_equal_rank
from foldflat.cluster.fit import cheapest_subspace, fit_table
from foldflat.cluster.seeding import STARTS
from foldflat.errors import BudgetError, DataError, RecipeError

__all__ = ["ProjectiveClustering"]

Array = NDArray[Any]


class ProjectiveClustering(TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Cluster rows around k linear subspaces of rank j: (k, j)-projective clustering.

    Minimise the weighted sum over rows of the squared distance to the closest of k subspaces through the origin,
    by alternating assignment and refit from one or several starts. k = 1 is the truncated SVD.

    Args:
        n_subspaces: k, at most the number of rows.
        rank: common rank j, at most d. Default: max(1, d // 2), unless `keep_ratio` is given.
        keep_ratio: parameters n j + k j d to keep, as a share of n d; excludes `rank`.
        free_ranks: let the ranks differ under the budget of `keep_ratio`.
        init: "spherical" (k-means of the directions) or "random" (balanced; the paper's).
        n_init: number of starts; the cheapest is kept.
        max_iter: steps of each start.
        tol: relative change of the cost at which a start stops.
        power: exponent of the distance; 2.0 is the one supported.
        affine: flats that need not pass through the origin; not supported yet.
        random_state: None, int or RandomState.

    Attributes:
        labels_: (n,) the subspace of each row.
        bases_: list of (rank_i, d) arrays with orthonormal rows and canonical signs.
        ranks_: (k,) the ranks.
        cost_: weighted sum of squared distances, recomputed from residuals.
        costs_: what each step provably does not raise; with free ranks, cost + multiplier x parameters at the
            multiplier of its phase, in units of weights with mean one.
        phases_: for each entry of `costs_`, its phase; the multiplier is solved anew between phases.
        multiplier_: energy that one parameter had to save (free ranks), else 0.
        n_iter_: steps of the best start.

    Source: Maalouf et al., "Deep Learning Meets Projective Clustering", ICLR 2021 (equal ranks); free ranks by a
    Lagrange multiplier per parameter are ours.
    """

    def __init__(
        self,
        n_subspaces: int = 5,
        rank: int | None = None,
        *,
        keep_ratio: float | None = None,
        free_ranks: bool = False,
        init: str = "spherical",
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
        power: float = 2.0,
        affine: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_subspaces = n_subspaces
        self.rank = rank
        self.keep_ratio = keep_ratio
        self.free_ranks = free_ranks
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.power = power
        self.affine = affine
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Find the subspaces of the rows of X.

        Args:
            X: (n, d), finite.
            y: ignored.
            sample_weight: (n,), non-negative; weight 2 equals the row given twice.

        Raises:
            RecipeError: a setting is out of range, or k > n, or rank > d.
            BudgetError: `keep_ratio` is too small for any rank.
            DataError: weights are negative or all zero.
        """
        rows = validate_data(self, X, dtype=[np.float64, np.float32])
        self._check_settings(*rows.shape)
        weights = _weights(sample_weight, rows)
        taking_part = int((weights > 0).sum()) if weights is not None else rows.shape[0]
        rank, budget = self._rank_or_budget(taking_part, rows.shape[1])
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        found = fit_table(
            _tensor(rows),
            None if weights is None else torch.from_numpy(weights),
            n_subspaces=self.n_subspaces,
            rank=rank,
            budget=budget,
            init=self.init,
            n_init=self.n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            seed=seed,
        )
        self.labels_ = found.labels.numpy()
        self.bases_ = [basis.numpy() for basis in found.bases]
        self.ranks_ = np.array(found.ranks)
        self.cost_ = found.cost
        self.costs_ = np.array(found.costs)
        self.phases_ = np.array(found.phases)
        self.multiplier_ = found.multiplier
        self.n_iter_ = len(found.costs)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return (n,) the subspace of each row: least squared distance, plus multiplier x rank if ranks are free."""
        check_is_fitted(self)
        rows = self._validated(X)
        bases = [torch.from_numpy(basis).to(rows.dtype) for basis in self.bases_]
        labels: NDArray[np.int64] = cheapest_subspace(rows, bases, self.multiplier_).numpy()
        return labels

    def transform(self, X: ArrayLike) -> Array:
        """Return (n, max rank): each row's coordinates in its own subspace, zero-padded on the right."""
        rows, labels = self._validated(X), self.predict(X)
        result = np.zeros((rows.shape[0], max(1, int(self.ranks_.max()))), dtype=rows.numpy().dtype)
        for i, basis in enumerate(self.bases_):
            members = np.flatnonzero(labels == i)
            result[members, : len(basis)] = rows.numpy()[members] @ basis.T.astype(result.dtype)
        return result

    def reconstruct(self, X: ArrayLike) -> Array:
        """Return (n, d): the projection of each row on its own subspace."""
        labels, coordinates = self.predict(X), self.transform(X)
        result = np.zeros((len(labels), self.n_features_in_), dtype=coordinates.dtype)
        for i, basis in enumerate(self.bases_):
            members = np.flatnonzero(labels == i)
            result[members] = coordinates[members, : len(basis)] @ basis.astype(result.dtype)
        return result

    def score(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> float:
        """Return minus the weighted sum of squared distances of the rows to their subspaces."""
        rows = self._validated(X).numpy()
        distances = np.square((rows - self.reconstruct(X)).astype(np.float64)).sum(1)
        weights = _weights(sample_weight, rows)
        return -float(distances.sum() if weights is None else distances @ weights)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _validated(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        return _tensor(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))

    def _check_settings(self, n: int, d: int) -> None:
        _at_least(self.n_subspaces, "n_subspaces", 1)
        _at_least(self.n_init, "n_init", 1)
        _at_least(self.max_iter, "max_iter", 1)
        if self.n_subspaces > n:
            raise RecipeError(
                f"`n_subspaces` is {self.n_subspaces}, more than the n_samples = {n} rows given; "
                f"hint: lower it to {n} or less"
            )
        if self.rank is not None:
            _at_least(self.rank, "rank", 1)
            if self.rank > d:
                raise RecipeError(f"`rank` is {self.rank}, more than the {d} features; hint: lower it to {d} or less")
            if self.keep_ratio is not None:
                raise RecipeError("both `rank` and `keep_ratio` are given; hint: give one, the other follows")
        if self.keep_ratio is not None and not 0 < self.keep_ratio <= 1:
            raise RecipeError(f"`keep_ratio` is {self.keep_ratio}, outside (0, 1]")
        if self.free_ranks and self.keep_ratio is None:
            raise RecipeError("`free_ranks` needs a budget; hint: give `keep_ratio` instead of `rank`")
        if not self.tol >= 0:
            raise RecipeError(f"`tol` is {self.tol}, below 0")
        if self.init not in STARTS:
            raise RecipeError(f"`init` is {self.init!r}, which is unknown; hint: choose one of {', '.join(STARTS)}")
        if self.power != 2.0 or self.affine:
            raise RecipeError(
                f"`power` is {self.power} and `affine` is {self.affine}; "
                "only squared distances (2.0) to linear subspaces (False) are supported"
            )

    def _rank_or_budget(self, n: int, d: int) -> tuple[int | None, float | None]:
        if self.keep_ratio is None:
            return (self.rank or max(1, d // 2)), None
        budget = self.keep_ratio * n * d
        smallest = (n + self.n_subspaces * d) / (n * d)
        rank = largest_equal_rank(n, d, self.n_subspaces, budget)
        if rank == 0:
            way_out = f"raise it to {math.ceil(smallest * 1e4) / 1e4:.4f}" if smallest <= 1 else ""
            if self.n_subspaces > 1:
                way_out += " or lower `n_subspaces`" if way_out else "lower `n_subspaces`"
            raise BudgetError(
                f"`keep_ratio` {self.keep_ratio} keeps {int(budget)} of {n * d} numbers, too few for rank 1 in "
                f"{self.n_subspaces} subspaces; hint: {way_out}"
            )
        return (None, budget) if self.free_ranks else (rank, None)


def _at_least(value: object, name: str, least: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < least:
        raise RecipeError(f"`{name}` is {value!r}; hint: give an integer of at least {least}")


def _tensor(rows: Array) -> Tensor:
    return torch.from_numpy(np.require(rows, requirements=["C", "W"]))


def _weights(sample_weight: ArrayLike | None, rows: Array) -> NDArray[np.float64] | None:
    if sample_weight is None:
        return None
    if not np.any(np.asarray(sample_weight)):
        raise DataError("`sample_weight` is all zero; hint: give at least one row a positive weight")
    weights: NDArray[np.float64] = _check_sample_weight(sample_weight, rows, dtype=np.float64)
    if (weights < 0).any():
        raise DataError(
            f"`sample_weight` has {int((weights < 0).sum())} negative entries; hint: weights are at least 0"
        )
    return weights
