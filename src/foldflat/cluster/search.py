"""From a table in memory and a budget to its subspaces, however many serve it best."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from foldflat.cluster.allocation import largest_equal_rank
from foldflat.cluster.fit import Clustering, finished, fit_table
from foldflat.cluster.rows import distinct_rows, every_row
from foldflat.cluster.streaming import JUDGE_ROWS, SAMPLE_ROWS, fit_source
from foldflat.cluster.subspace import squared_distances
from foldflat.cluster.trials import CLEARLY, Problem, SearchSettings, Trial, choose_subspaces

__all__ = ["search_subspaces"]


def search_subspaces(
    table: Tensor,
    weights: Tensor | None,
    settings: SearchSettings,
    *,
    watch: Callable[[Trial], None] | None = None,
) -> tuple[Clustering, list[Trial]]:
    """Try k = 1, 2, 4, .. with short runs under one budget, then continue the best to convergence and nest it.

    The doubling ends at the first k that is worse than half of it from a spherical and from a spectral start, or where
    no rank fits. A given k has a spectral start too where a spherical one is no better than a single subspace. It must
    be clearly better to be taken. With free ranks, the best and those of half as many subspaces, while that pays, are
    nested (see `foldflat.cluster.nesting`). Above 40,960 rows a sample decides all that, and passes over all rows
    follow (see `foldflat.cluster.streaming`).

    Args:
        table: (n, d), finite.
        weights: (n,) or None.
        settings: what is asked.
        watch: called with every trial as it ends.

    Returns:
        the clustering of the whole table, and every trial.

    Raises:
        BudgetError: not even one subspace of rank 1 fits.
    """
    if len(table) > SAMPLE_ROWS + JUDGE_ROWS:
        return _streamed(table, weights, settings, watch)
    n = len(table) if weights is None else int((weights > 0).sum())
    settings.check_budget(n, table.shape[1])
    if settings.n_subspaces is not None:
        return _fitted(table, weights, settings, n), []
    rows = distinct_rows(table, weights)
    best, trials = choose_subspaces(Problem(settings, rows, rows, n), watch)
    return finished(rows, best), trials


def _fitted(table: Tensor, weights: Tensor | None, settings: SearchSettings, n: int) -> Clustering:
    assert settings.n_subspaces is not None
    k, d, budget = settings.n_subspaces, table.shape[1], settings.budget
    price = settings.price_of_basis_vector(d)
    fitted = partial(
        fit_table,
        table,
        weights,
        n_subspaces=k,
        rank=None if settings.free else largest_equal_rank(n, d, k, budget, price),
        budget=budget if settings.free else None,
        n_moves=1,
        basis_price=price,
        max_iter=settings.max_iter,
        tol=settings.tol,
        seed=settings.seed,
    )
    found = fitted()
    if k == 1:
        return found
    one = fit_table(table, weights, n_subspaces=1, rank=largest_equal_rank(n, d, 1, budget, price), max_iter=1)
    if found.cost <= one.cost:
        return found
    # rows of subspaces without common directions look alike to a spherical start
    other = fitted(init="spectral")
    return other if other.cost < CLEARLY * one.cost else found


def _streamed(
    table: Tensor, weights: Tensor | None, settings: SearchSettings, watch: Callable[[Trial], None] | None
) -> tuple[Clustering, list[Trial]]:
    found = fit_source(table, weights, settings, watch=watch)
    rows = every_row(table, weights)
    labels = found.labels.to(table.device, torch.int64)
    cost = float((rows.weights * squared_distances(rows, labels, found.bases)).sum())
    multiplier = found.multiplier / float(rows.weights.mean())
    phases = [0] * len(found.costs)
    clustering = Clustering(
        labels, found.bases, cost, found.costs, phases, multiplier, found.converged, [cost], found.groups
    )
    return clustering, found.trials
