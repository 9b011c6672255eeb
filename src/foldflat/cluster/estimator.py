"""Projective clustering as a scikit-learn estimator."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.checks import check_settings, checked_weights, has_flats, rank_or_budget
from foldflat.cluster.fit import cheapest_subspace, fit_table
from foldflat.cluster.flats import FlatSettings, distances_to_flats, fit_flats
from foldflat.cluster.losses import loss_named
from foldflat.cluster.rows import distinct_rows
from foldflat.cluster.subspace import BasisStack
from foldflat.randomness import spawn_seeds

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
        init: "spherical" (k-means of the directions), "spectral" (clusters of rows with large squared cosines; finds
            subspaces whose rows have no common direction) or "random" (balanced; the paper's).
        n_init: number of starts, as many at a time as torch may use threads; the cheapest is kept.
        n_moves: times that each start may leave a local minimum by moving whole parts of clusters (see
            `foldflat.cluster.regrouping`). None: 1 for squared distances to subspaces, 0 for other costs. Nothing is
            moved where the Gram matrices of 2 k parts would hold over 2^28 numbers (k = 256 at d = 768).
        annealing: number of first steps that draw the subspace of a row at random, at a falling temperature.
        max_iter: steps of each start, without those of `annealing`.
        tol: relative change of the cost at which a start stops.
        power: exponent z of the distance in what is minimised, from 1 to 2; below 2, outliers count less.
        affine: let the flats miss the origin.
        loss: "power", or an M-estimator of the distance: "huber", "cauchy", "geman-mcclure", "welsch", "tukey",
            "truncated" (see `foldflat.cluster.losses`).
        loss_scale: distance beyond which rows count less; default a multiple of the median distance at power 1.
        random_state: None, int or RandomState.

    Attributes:
        labels_: (n,) the subspace of each row.
        bases_: list of (rank_i, d) arrays with orthonormal rows and canonical signs.
        ranks_: (k,) the ranks.
        offsets_: (k, d) with `affine`, the point of each flat that is closest to the origin; else zeros.
        scale_: the scale that the loss was given, 0 for powers.
        cost_: weighted sum of distances^power, or of losses, recomputed from residuals.
        costs_: what no step of a phase can raise; with free ranks, cost + multiplier x parameters at the multiplier of
            the phase, in units of weights with mean one.
        phases_: for each entry of `costs_`, its phase; the multiplier is solved anew between phases, and each step of
            `annealing` is one.
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
        n_moves: int | None = None,
        annealing: int = 0,
        max_iter: int = 100,
        tol: float = 1e-4,
        power: float = 2.0,
        affine: bool = False,
        loss: str = "power",
        loss_scale: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_subspaces = n_subspaces
        self.rank = rank
        self.keep_ratio = keep_ratio
        self.free_ranks = free_ranks
        self.init = init
        self.n_init = n_init
        self.n_moves = n_moves
        self.annealing = annealing
        self.max_iter = max_iter
        self.tol = tol
        self.power = power
        self.affine = affine
        self.loss = loss
        self.loss_scale = loss_scale
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
        check_settings(self, *rows.shape)
        weights = checked_weights(sample_weight, rows)
        taking_part = int((weights > 0).sum()) if weights is not None else rows.shape[0]
        rank, budget = rank_or_budget(self, taking_part, rows.shape[1])
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if has_flats(self):
            assert rank is not None
            self._fit_flats(_tensor(rows), weights, rank, seed)
        else:
            self._fit_subspaces(_tensor(rows), weights, rank, budget, seed)
        return self

    def _fit_subspaces(
        self, rows: Tensor, weights: NDArray[np.float64] | None, rank: int | None, budget: float | None, seed: int
    ) -> None:
        found = fit_table(
            rows,
            None if weights is None else torch.from_numpy(weights),
            n_subspaces=self.n_subspaces,
            rank=rank,
            budget=budget,
            init=self.init,
            n_init=self.n_init,
            n_moves=1 if self.n_moves is None else self.n_moves,
            annealing=self.annealing,
            max_iter=self.max_iter,
            tol=self.tol,
            seed=seed,
        )
        self.labels_ = found.labels.numpy()
        self.bases_ = [basis.numpy() for basis in found.bases]
        self.ranks_ = np.array(found.ranks)
        self.offsets_ = np.zeros((self.n_subspaces, rows.shape[1]), dtype=self.bases_[0].dtype)
        self.scale_ = 0.0
        self.cost_ = found.cost
        self.costs_ = np.array(found.costs)
        self.phases_ = np.array(found.phases)
        self.multiplier_ = found.multiplier
        self.n_iter_ = len(found.costs)

    def _fit_flats(self, rows: Tensor, weights: NDArray[np.float64] | None, rank: int, seed: int) -> None:
        settings = FlatSettings(
            self.n_subspaces,
            rank,
            self.affine,
            self.loss,
            float(self.power),
            self.loss_scale,
            self.init,
            self.max_iter,
            self.tol,
        )
        distinct = distinct_rows(rows, None if weights is None else torch.from_numpy(weights))
        found = fit_flats(distinct, settings, spawn_seeds(seed, self.n_init))
        self.bases_ = [basis.numpy() for basis in found.bases]
        self.ranks_ = np.full(self.n_subspaces, rank)
        self.offsets_ = found.offsets.numpy()
        self.scale_ = found.loss.scale
        self.multiplier_ = 0.0
        self.labels_ = self._closest(rows)
        self.costs_ = distinct.scale * np.array(found.costs)
        self.phases_ = np.zeros(len(found.costs), dtype=int)
        self.n_iter_ = len(found.costs)
        self.cost_ = self._cost(rows, self.labels_, weights)

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return (n,) the subspace of each row: least squared distance, plus multiplier x rank if ranks are free."""
        check_is_fitted(self)
        return self._closest(self._validated(X))

    def _closest(self, rows: Tensor) -> NDArray[np.int64]:
        bases = [torch.from_numpy(basis).to(rows.dtype) for basis in self.bases_]
        if not self.offsets_.any():
            labels: NDArray[np.int64] = cheapest_subspace(rows, bases, self.multiplier_).numpy()
            return labels
        stack, offsets = BasisStack(bases), torch.from_numpy(self.offsets_).to(rows.dtype)
        parts = [distances_to_flats(rows[part], stack, offsets).argmin(1) for part in blocks(len(rows), rows.shape[1])]
        closest: NDArray[np.int64] = torch.cat(parts).numpy()
        return closest

    def transform(self, X: ArrayLike) -> Array:
        """Return (n, max rank): each row's coordinates in its own subspace, zero-padded on the right."""
        rows = self._validated(X)
        return self._coordinates(rows.numpy(), self._closest(rows))

    def _coordinates(self, rows: Array, labels: NDArray[np.int64]) -> Array:
        result = np.zeros((rows.shape[0], max(1, int(self.ranks_.max()))), dtype=rows.dtype)
        for i, basis in enumerate(self.bases_):
            members = np.flatnonzero(labels == i)
            result[members, : len(basis)] = rows[members] @ basis.T.astype(result.dtype)
        return result

    def reconstruct(self, X: ArrayLike) -> Array:
        """Return (n, d): the projection of each row on its own subspace."""
        rows = self._validated(X)
        labels = self._closest(rows)
        return self._rebuilt(labels, self._coordinates(rows.numpy(), labels))

    def _rebuilt(self, labels: NDArray[np.int64], coordinates: Array) -> Array:
        result = np.zeros((len(labels), self.n_features_in_), dtype=coordinates.dtype)
        for i, basis in enumerate(self.bases_):
            members = np.flatnonzero(labels == i)
            result[members] = coordinates[members, : len(basis)] @ basis.astype(result.dtype)
            result[members] += self.offsets_[i].astype(result.dtype)
        return result

    def score(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> float:
        """Return minus the cost of the rows: weighted squared distances, or what `power` and `loss` say."""
        rows = self._validated(X)
        return -self._cost(rows, self._closest(rows), checked_weights(sample_weight, rows.numpy()))

    def _cost(self, rows: Tensor, labels: NDArray[np.int64], weights: NDArray[np.float64] | None) -> float:
        rebuilt = self._rebuilt(labels, self._coordinates(rows.numpy(), labels))
        squares = torch.from_numpy(np.square((rows.numpy() - rebuilt).astype(np.float64)).sum(1))
        scale = self.scale_ or 1.0
        costs = loss_named(self.loss, power=float(self.power), scale=scale).value(squares).numpy()
        return float(costs.sum() if weights is None else costs @ weights)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _validated(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        return _tensor(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))


def _tensor(rows: Array) -> Tensor:
    return torch.from_numpy(np.require(rows, requirements=["C", "W"]))
