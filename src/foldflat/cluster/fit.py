"""One call from a table to its subspaces: several starts, the best kept."""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.alternate import Alternation, RankRule, alternate, equal_ranks, free_ranks
from foldflat.cluster.regrouping import regrouped
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.seeding import first_partition
from foldflat.cluster.subspace import BasisStack, squared_distances
from foldflat.cluster.threads import side_by_side
from foldflat.randomness import spawn_seeds

__all__ = ["Clustering", "cheapest_subspace", "continue_fit", "finished", "fit_rows", "fit_table", "fitted_cost"]


@dataclass(frozen=True)
class Clustering:
    """Hold k subspaces fitted to the rows of a table.

    Attributes:
        labels: (n,) int64, the subspace of every row.
        bases: k matrices (rank_i, d) with orthonormal rows, directions of most energy first.
        cost: weighted sum of squared distances, recomputed from residuals.
        costs, phases: see `foldflat.cluster.alternate.Alternation`.
        multiplier: energy that one parameter had to save; zero for equal ranks.
        converged: whether the relative change fell below the tolerance.
        start_costs: the cost that each start ended with.
        groups: for each subspace, the basis that it is spanned by the first directions of; empty where each has its
            own.
    """

    labels: Tensor
    bases: list[Tensor]
    cost: float
    costs: list[float]
    phases: list[int]
    multiplier: float
    converged: bool
    start_costs: list[float]
    groups: list[int] = field(default_factory=list)

    @property
    def ranks(self) -> list[int]:
        """Return the k ranks."""
        return [len(basis) for basis in self.bases]


def fit_table(
    table: Tensor,
    weights: Tensor | None = None,
    *,
    n_subspaces: int,
    rank: int | None = None,
    budget: float | None = None,
    basis_price: float | None = None,
    init: str = "spherical",
    n_init: int = 1,
    n_moves: int = 0,
    annealing: int = 0,
    max_iter: int = 100,
    tol: float = 1e-4,
    seed: int = 0,
) -> Clustering:
    """Fit k subspaces to the rows of a table, by (k, j)-projective clustering.

    Args:
        table: (n, d), finite.
        weights: (n,), non-negative row weights; None means one each.
        n_subspaces: k.
        rank: the common rank j; exactly one of `rank` and `budget` is given.
        budget: parameters n_1 r_1 + .. + n_k r_k + (r_1 + .. + r_k) d to spend with free ranks.
        basis_price: parameters that a basis vector costs, d by default.
        init: "spherical", "spectral" or "random".
        n_init: number of starts, as many at a time as there are threads; the cheapest is kept.
        n_moves: times that each start may leave a local minimum, see `foldflat.cluster.regrouping`.
        annealing: number of first steps that draw the subspace of a row, see `foldflat.cluster.alternate`.
        max_iter: steps of each start.
        tol: relative change of the cost at which a start stops.
        seed: the starts are functions of it.

    Source: Maalouf et al., "Deep Learning Meets Projective Clustering", ICLR 2021; free ranks are ours.
    """
    rows = distinct_rows(table, weights)
    start = partial(
        fit_rows,
        basis_price=basis_price,
        init=init,
        n_moves=n_moves,
        annealing=annealing,
        max_iter=max_iter,
        tol=tol,
    )
    starts = side_by_side(
        lambda own: start(rows, n_subspaces, rank, budget, seed=own),
        spawn_seeds(seed, n_init),
        worthwhile=rows.table.device.type == "cpu",
    )
    costs = [fitted_cost(rows, state) for state in starts]
    best = min(range(n_init), key=costs.__getitem__)
    return _clustering(rows, starts[best], costs[best], costs)


def fit_rows(
    rows: WeightedRows,
    k: int,
    rank: int | None,
    budget: float | None,
    *,
    basis_price: float | None = None,
    init: str = "spherical",
    n_moves: int = 0,
    annealing: int = 0,
    seed: int = 0,
    max_iter: int = 100,
    tol: float = 1e-4,
) -> Alternation:
    """Run one start on distinct rows; `basis_price` (default d) is what a basis vector costs of the budget.

    What moves lead to is taken only where it is cheaper.
    """
    labels = first_partition(rows, k, init, seed)
    fit = partial(continue_fit, rows, k=k, rank=rank, budget=budget, basis_price=basis_price, tol=tol)
    state = fit(labels, max_iter=max_iter, annealing=annealing, seed=seed)
    rule = _rule(rows, rank, budget, basis_price)
    for _ in range(n_moves):
        left = max_iter + annealing - len(state.costs)
        price = partial(rule.price, multiplier=state.multiplier)
        moved = regrouped(rows, state.labels, k, price, seed=seed) if left > 0 else None
        if moved is None:
            break
        found = fit(moved, max_iter=left)
        # a multiplier solved anew may undo what was gained at the old one
        if fitted_cost(rows, found) >= fitted_cost(rows, state):
            break
        state = _after(state, found, rank)
    return state


def _after(before: Alternation, state: Alternation, rank: int | None) -> Alternation:
    """Return the later of two states, with the record of both; free ranks solve the multiplier anew."""
    first = max(before.phases) + (rank is None)
    state.costs = before.costs + state.costs
    state.phases = before.phases + [phase + first for phase in state.phases]
    return state


def continue_fit(
    rows: WeightedRows,
    labels: Tensor,
    k: int,
    rank: int | None,
    budget: float | None,
    *,
    basis_price: float | None = None,
    max_iter: int = 100,
    tol: float = 1e-4,
    annealing: int = 0,
    seed: int = 0,
) -> Alternation:
    """Run the alternation from given labels (m,) of distinct rows; the settings are those of `alternate`."""
    rule = _rule(rows, rank, budget, basis_price)
    state = alternate(rows, labels, k, rule, max_iter=max_iter, tol=tol, annealing=annealing, seed=seed)
    if rank is not None:
        state.labels = cheapest_subspace(rows.table, state.bases)[rows.index]
    return state


def _rule(rows: WeightedRows, rank: int | None, budget: float | None, basis_price: float | None) -> RankRule:
    if rank is not None:
        return equal_ranks(rank)
    assert budget is not None
    return free_ranks(budget, rows.n_features if basis_price is None else basis_price)


def fitted_cost(rows: WeightedRows, state: Alternation) -> float:
    """Return the weighted sum of squared distances, from residuals."""
    return rows.scale * float((rows.weights * squared_distances(rows, state.labels, state.bases)).sum())


def finished(rows: WeightedRows, state: Alternation) -> Clustering:
    """Return the clustering of the whole table that a finished alternation stands for."""
    cost = fitted_cost(rows, state)
    return _clustering(rows, state, cost, [cost])


def cheapest_subspace(table: Tensor, bases: list[Tensor], rent: float = 0.0) -> Tensor:
    """Return (n,) the subspace of least squared distance plus `rent` x rank for every row of a table."""
    stack = BasisStack(bases)
    dtype = stack.matrix.dtype
    labels = torch.empty(table.shape[0], dtype=torch.int64, device=table.device)
    rents = rent * torch.tensor([len(basis) for basis in bases], dtype=dtype, device=table.device)
    for part in blocks(table.shape[0], max(stack.matrix.shape)):
        labels[part] = (stack.captured_energy(table[part]) - rents).argmax(1)
    return labels


def _clustering(rows: WeightedRows, state: Alternation, cost: float, start_costs: list[float]) -> Clustering:
    labels = state.labels[rows.inverse.clamp_min(0)]
    # in units of a row of mean weight, so that neither copies of all rows nor the scale of weights matter
    multiplier = state.multiplier * float(rows.counts.sum()) / len(rows)
    absent = torch.nonzero(rows.inverse < 0).squeeze(1)
    if len(absent):
        labels[absent] = cheapest_subspace(rows.table[absent], state.bases, multiplier)
    return Clustering(
        labels, state.bases, cost, state.costs, state.phases, multiplier, state.converged, start_costs, state.groups
    )
