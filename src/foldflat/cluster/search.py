"""How many subspaces? Double k while the cost at equal parameters falls."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.cluster.allocation import largest_equal_rank
from foldflat.cluster.alternate import Alternation
from foldflat.cluster.assignment import assign_rows, assign_within, squared_residuals
from foldflat.cluster.fit import Clustering, continue_fit, finished, fitted_cost
from foldflat.cluster.nesting import LEVELS, PHASES, nest
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.seeding import first_partition
from foldflat.errors import BudgetError
from foldflat.randomness import torch_generator

__all__ = ["Trial", "search_subspaces"]

_SAMPLE_ROWS = 32768
_JUDGE_ROWS = 8192
_SHORT_STEPS = 16
_SHORT_TOL = 1e-3
_FULL_STEPS = 8
_FULL_PHASES = 1
_ANNEALING_STEPS = 24
_SAMPLE_ANNEALING_STEPS = 8
_SAMPLE_PHASES = 3


@dataclass(frozen=True)
class Trial:
    """Record one number of subspaces that was tried.

    Attributes:
        n_subspaces: k.
        energy_lost: weighted squared distances over weighted energy, after a short run, or after nesting.
        rows: rows that the short run fitted; where they are a sample, the loss is that of 8,192 others.
        n_bases: bases that the subspaces are spanned by; fewer than k where subspaces lie within one another.
    """

    n_subspaces: int
    energy_lost: float
    rows: int
    n_bases: int


def search_subspaces(
    table: Tensor,
    weights: Tensor | None,
    *,
    budget: float,
    free: bool = True,
    max_subspaces: int = 256,
    max_iter: int = 100,
    tol: float = 1e-4,
    seed: int = 0,
    watch: Callable[[Trial], None] | None = None,
) -> tuple[Clustering, list[Trial]]:
    """Try k = 1, 2, 4, .. with short runs under one budget, then continue the best to convergence and nest it.

    The doubling ends at the first k that is worse than half of it, or where no rank fits. Above 40,960 rows the
    short runs see a sample of 32,768 and a budget that stand in the same proportion, and are judged on other rows;
    the best converges on the sample and takes a few steps on all rows. With free ranks, the best, and up to 40,960
    rows those of half as many subspaces while that pays, are nested (see `foldflat.cluster.nesting`).

    Args:
        table: (n, d), finite.
        weights: (n,) or None.
        budget: parameters to spend.
        free: free ranks; otherwise the largest equal rank that fits.
        watch: called with every trial as it ends.

    Returns:
        the clustering of the whole table, and every trial.

    Raises:
        BudgetError: not even one subspace of rank 1 fits.
    """
    rows = distinct_rows(table, weights)
    n, d = int(rows.counts.sum()), rows.n_features
    if budget < n + d:
        raise BudgetError(
            f"a budget of {int(budget)} parameters is too few for rank 1 on a {n} x {d} table; "
            f"hint: the least is {n + d}"
        )
    problem = _Problem(rows, budget, free, n, max_iter, tol, seed)
    sample = _sample(problem)
    trials = _Trials(sample, watch)
    shorts = _try_out(problem, sample, min(max_subspaces, len(sample.rows)), trials)
    best = _run(problem, sample, shorts[-1].labels, len(shorts[-1].bases), short=False)
    if free:
        best = _nest_best(problem, sample, [*shorts[:-1], best], max_subspaces, trials) or best
    return finished(rows, _on_all_rows(problem, sample, best)), trials.found


@dataclass(frozen=True)
class _Problem:
    rows: WeightedRows
    budget: float
    free: bool
    n: int
    max_iter: int
    tol: float
    seed: int

    def rank(self, k: int) -> int | None:
        return None if self.free else largest_equal_rank(self.n, self.rows.n_features, k, self.budget)


@dataclass(frozen=True)
class _Sample:
    """Hold what short runs see: rows to fit, rows to judge by, and a budget and price in proportion to the first."""

    rows: WeightedRows
    judges: WeightedRows
    budget: float
    basis_price: float

    @property
    def is_all(self) -> bool:
        return self.judges is self.rows


def _sample(problem: _Problem) -> _Sample:
    rows = problem.rows
    if len(rows) <= _SAMPLE_ROWS + _JUDGE_ROWS:
        return _Sample(rows, rows, problem.budget, rows.n_features)
    order = torch.randperm(len(rows), generator=torch_generator(problem.seed)).to(rows.table.device)
    fitted = rows.subset(order[:_SAMPLE_ROWS].sort().values)
    # rows that were not fitted: many subspaces follow the noise of a sample, and would look better on it than they are
    judges = rows.subset(order[_SAMPLE_ROWS : _SAMPLE_ROWS + _JUDGE_ROWS].sort().values)
    share = float(fitted.counts.sum() / rows.counts.sum())
    return _Sample(fitted, judges, problem.budget * share, rows.n_features * share)


class _Trials:
    """Judge what short and long runs found, and keep the record."""

    def __init__(self, sample: _Sample, watch: Callable[[Trial], None] | None) -> None:
        self.found: list[Trial] = []
        self._sample, self._watch = sample, watch
        judges = sample.judges
        self._energy = judges.scale * judges.energy()

    def lost(self, state: Alternation) -> float:
        """Return the share of the energy that a run loses on the rows it is judged by."""
        if not self._energy:
            return 0.0
        if self._sample.is_all:
            return fitted_cost(self._sample.rows, state) / self._energy
        return _loss(self._sample.judges, state, _numbers(self._sample, state)) / self._energy

    def add(self, state: Alternation) -> float:
        """Record a run; return what it loses."""
        trial = Trial(len(state.bases), self.lost(state), len(self._sample.rows), _n_bases(state))
        self.found.append(trial)
        if self._watch is not None:
            self._watch(trial)
        return trial.energy_lost


def _n_bases(state: Alternation) -> int:
    return len(set(state.groups)) if state.groups else len(state.bases)


def _try_out(problem: _Problem, sample: _Sample, most: int, trials: _Trials) -> list[Alternation]:
    """Return short runs with 1, 2, 4, .. subspaces, each cheaper than the one before."""
    shorts: list[Alternation] = []
    least, k = float("inf"), 1
    while k <= most and problem.rank(k) != 0:
        labels = first_partition(sample.rows, k, "spherical", problem.seed)
        short = _run(problem, sample, labels, k, short=True)
        lost = trials.add(short)
        if lost >= least:
            break
        shorts.append(short)
        least, k = lost, 2 * k
    return shorts


def _run(problem: _Problem, sample: _Sample, labels: Tensor, k: int, *, short: bool) -> Alternation:
    return continue_fit(
        sample.rows,
        labels,
        k,
        problem.rank(k),
        sample.budget,
        basis_price=sample.basis_price,
        max_iter=_SHORT_STEPS if short else problem.max_iter,
        tol=_SHORT_TOL if short else problem.tol,
        annealing=0 if short or k == 1 else _ANNEALING_STEPS if sample.is_all else _SAMPLE_ANNEALING_STEPS,
        seed=problem.seed,
    )


def _nest_best(
    problem: _Problem, sample: _Sample, states: list[Alternation], most: int, trials: _Trials
) -> Alternation | None:
    """Return the cheapest nesting of the last state or of those with a half, a quarter, .. of its subspaces.

    None where none is cheaper than the last state itself.
    """
    best, least, before = None, trials.lost(states[-1]), float("inf")
    for tried, state in enumerate(reversed(states)):
        levels = min(LEVELS, most // len(state.bases))
        if levels < 2:
            continue
        base = _run(problem, sample, state.labels, len(state.bases), short=False) if tried else state
        nested = nest(
            sample.rows,
            base,
            sample.budget,
            basis_price=sample.basis_price,
            levels=levels,
            phases=PHASES if sample.is_all else _SAMPLE_PHASES,
            tol=problem.tol,
        )
        lost = trials.add(nested)
        if lost < least:
            best, least = nested, lost
        if lost >= before or not sample.is_all:
            break
        before = lost
    return best


def _on_all_rows(problem: _Problem, sample: _Sample, state: Alternation) -> Alternation:
    rows = problem.rows
    if sample.is_all:
        return state
    if state.groups:
        return nest(rows, state, problem.budget, basis_price=rows.n_features, phases=_FULL_PHASES, tol=problem.tol)
    k = len(state.bases)
    labels, _ = assign_rows(rows, state.bases, state.multiplier)
    steps = min(problem.max_iter, _FULL_STEPS)
    return continue_fit(rows, labels, k, problem.rank(k), problem.budget, max_iter=steps, tol=problem.tol)


def _numbers(sample: _Sample, state: Alternation) -> float:
    ranks = torch.tensor([len(basis) for basis in state.bases], dtype=torch.float64)
    counts = sample.rows.counts
    return float((counts * ranks.to(counts.device)[state.labels]).sum() / counts.sum())


def _loss(judges: WeightedRows, state: Alternation, numbers_per_row: float) -> float:
    """Return the cost of rows that were not fitted, in the given subspaces and with as many numbers a row.

    The multiplier of the fitted rows would let others take more: their noise is in no basis.
    """
    residuals = squared_residuals(judges, state.bases).double().mul_(judges.weights[:, None])
    ranks = torch.tensor([len(basis) for basis in state.bases], dtype=torch.float64, device=residuals.device)
    allowed = numbers_per_row * float(judges.counts.sum()) * (1 + 1e-9)
    labels, _ = assign_within(judges, residuals, ranks, allowed, state.multiplier)
    return judges.scale * float(residuals.gather(1, labels[:, None]).sum())
