"""How many subspaces? Double k while the cost at equal parameters falls, then nest the best."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.cluster.allocation import largest_equal_rank
from foldflat.cluster.alternate import Alternation
from foldflat.cluster.assignment import assign_within, squared_residuals
from foldflat.cluster.fit import continue_fit, fitted_cost
from foldflat.cluster.groups import groups_of, layout
from foldflat.cluster.nesting import LEVELS, PHASES, nest
from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.seeding import first_partition
from foldflat.errors import BudgetError, RecipeError

__all__ = ["CLEARLY", "SAMPLINGS", "Problem", "SearchSettings", "Trial", "choose_subspaces", "multiplier_for"]

SAMPLINGS = ("importance", "uniform")
"""Ways to draw the rows that a search in a large table sees."""

CLEARLY = 0.9
"""Share of what spherical starts cost below which a spectral one is taken."""

_MOST_DOUBTED = 8
_SHORT_STEPS = 16
_SHORT_TOL = 1e-3
_ANNEALING_STEPS = 24
_SAMPLE_ANNEALING_STEPS = 8
_SAMPLE_PHASES = 3


@dataclass(frozen=True)
class Trial:
    """Record one number of subspaces that was tried.

    Attributes:
        n_subspaces: k.
        energy_lost: weighted squared distances over weighted energy, after a short run, or after nesting.
        rows: rows that the short run fitted; where they are a sample, the loss is that of 8,192 drawn beside them.
        n_bases: bases that the subspaces are spanned by; fewer than k where subspaces lie within one another.
    """

    n_subspaces: int
    energy_lost: float
    rows: int
    n_bases: int


@dataclass(frozen=True)
class SearchSettings:
    """Say what is asked of a table.

    Attributes:
        budget: parameters n_1 r_1 + .. + (ranks of the bases) d to spend on the whole table.
        free: free ranks, also within shared bases; otherwise the largest equal rank that fits.
        n_subspaces: the only k to try, with a basis for each; None for a search.
        max_subspaces: k beyond which nothing is tried.
        max_iter, tol: of the alternation.
        seed: everything random follows from it.
        basis_price: parameters that one basis vector costs of the budget; None for d. Other than d where basis
            vectors are stored in other types than coefficients.
        sampling: how the rows that a search in a large table sees are drawn: by "importance" (see
            `foldflat.cluster.importance`) or "uniform".

    Raises:
        RecipeError: `sampling` is none of `SAMPLINGS`.
    """

    budget: float
    free: bool = True
    n_subspaces: int | None = None
    max_subspaces: int = 256
    max_iter: int = 100
    tol: float = 1e-4
    seed: int = 0
    basis_price: float | None = None
    sampling: str = "importance"

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            choices = ", ".join(SAMPLINGS)
            raise RecipeError(f"`sampling` is {self.sampling!r}, which is unknown; hint: choose one of {choices}")

    def check_budget(self, n: int, d: int) -> None:
        """Raise BudgetError where not even one subspace of rank 1 fits an (n, d) table."""
        least = n + self.price_of_basis_vector(d)
        if self.budget < least:
            raise BudgetError(
                f"a budget of {int(self.budget)} parameters is too few for rank 1 on a {n} x {d} table; "
                f"hint: the least is {math.ceil(least)}"
            )

    def price_of_basis_vector(self, d: int) -> float:
        """Return the parameters that one basis vector of d features costs of the budget."""
        return d if self.basis_price is None else self.basis_price


@dataclass(frozen=True)
class Problem:
    """Hold what is asked, and the rows that answer for the table.

    Attributes:
        settings: what is asked.
        rows: distinct rows to fit: all of them, or a sample.
        judges: the same, or rows drawn apart to judge by. Many subspaces follow the noise of a sample, and would look
            better on it than they are.
        n: rows of the whole table.
    """

    settings: SearchSettings
    rows: WeightedRows
    judges: WeightedRows
    n: int

    @property
    def is_sampled(self) -> bool:
        """Return whether the rows are a part of the table."""
        return self.judges is not self.rows

    @property
    def share(self) -> float:
        """Return which part of the table's rows are fitted."""
        return float(self.rows.counts.sum()) / self.n

    def rank(self, k: int) -> int | None:
        """Return the largest equal rank of k subspaces, None where ranks are free."""
        if self.settings.free:
            return None
        return largest_equal_rank(self.n, self.rows.n_features, k, self.settings.budget, self.basis_price)

    @property
    def basis_price(self) -> float:
        """Return the parameters that one basis vector costs."""
        return self.settings.price_of_basis_vector(self.rows.n_features)


def choose_subspaces(problem: Problem, watch: Callable[[Trial], None] | None = None) -> tuple[Alternation, list[Trial]]:
    """Return the cheapest subspaces of the rows to fit, and every trial."""
    trials = _Trials(problem, watch)
    shorts = _try_out(problem, trials)
    best = _run(problem, shorts[-1].labels, len(shorts[-1].bases), short=False)
    if problem.settings.free and problem.settings.n_subspaces is None:
        best = _nest_best(problem, [*shorts[:-1], best], trials) or best
    return best, trials.found


def multiplier_for(problem: Problem, state: Alternation) -> float:
    """Return the multiplier at which rows that were not fitted take as many numbers each as the fitted ones.

    That of the fitted rows would let others take more: their noise is in no basis.
    """
    return _judged(problem, state)[1] * problem.judges.scale


class _Trials:
    """Judge what short and long runs found, and keep the record."""

    def __init__(self, problem: Problem, watch: Callable[[Trial], None] | None) -> None:
        self.found: list[Trial] = []
        self._problem, self._watch = problem, watch
        self._energy = problem.judges.scale * problem.judges.energy()

    def lost(self, state: Alternation) -> float:
        """Return the share of the energy that a run loses on the rows it is judged by."""
        if not self._energy:
            return 0.0
        if self._problem.is_sampled:
            return self._problem.judges.scale * _judged(self._problem, state)[0] / self._energy
        return fitted_cost(self._problem.rows, state) / self._energy

    def add(self, state: Alternation) -> float:
        """Record a run; return what it loses."""
        trial = Trial(len(state.bases), self.lost(state), len(self._problem.rows), _n_bases(state))
        self.found.append(trial)
        if self._watch is not None:
            self._watch(trial)
        return trial.energy_lost


def _n_bases(state: Alternation) -> int:
    return len(set(state.groups)) if state.groups else len(state.bases)


def _try_out(problem: Problem, trials: _Trials) -> list[Alternation]:
    """Return short runs with 1, 2, 4, .. subspaces, each cheaper than the one before; of a given k, that run alone.

    Where a spherical start finds nothing better than fewer subspaces do, a spectral one is tried too: rows of subspaces
    without common directions look alike to the first. Unless it is clearly cheaper, nothing is as if it had not been.
    A search that has come beyond eight subspaces has shown that spherical starts find what there is.
    """
    shorts: list[Alternation] = []
    given, start = problem.settings.n_subspaces is not None, "spherical"
    most = min(problem.settings.max_subspaces, len(problem.rows))
    # equal rows need no more subspaces than there are different ones
    least, k = float("inf"), min(problem.settings.n_subspaces or 1, most)
    if given and 1 < k <= most and problem.rank(k) != 0:
        least = trials.lost(_run(problem, first_partition(problem.rows, 1, start, 0), 1, short=True))
    while k <= most and problem.rank(k) != 0:
        short, lost = _short_run(problem, k, start, trials)
        if start == "spherical" and lost >= least and (given or k <= _MOST_DOUBTED):
            other, other_lost = _short_run(problem, k, "spectral", trials)
            if other_lost < CLEARLY * least:
                short, lost, start = other, other_lost, "spectral"
        if lost >= least and not given:
            break
        shorts.append(short)
        if given:
            break
        least, k = lost, 2 * k
    if not shorts:
        raise BudgetError(
            f"a budget of {int(problem.settings.budget)} parameters is too few for rank 1 in {k} subspaces; "
            f"hint: the least is {math.ceil(problem.n + k * problem.basis_price)}"
        )
    return shorts


def _short_run(problem: Problem, k: int, start: str, trials: _Trials) -> tuple[Alternation, float]:
    labels = first_partition(problem.rows, k, start, problem.settings.seed)
    short = _run(problem, labels, k, short=True)
    return short, trials.add(short)


def _run(problem: Problem, labels: Tensor, k: int, *, short: bool) -> Alternation:
    annealing = _SAMPLE_ANNEALING_STEPS if problem.is_sampled else _ANNEALING_STEPS
    return continue_fit(
        problem.rows,
        labels,
        k,
        problem.rank(k),
        problem.settings.budget * problem.share,
        basis_price=problem.basis_price * problem.share,
        max_iter=_SHORT_STEPS if short else problem.settings.max_iter,
        tol=_SHORT_TOL if short else problem.settings.tol,
        annealing=0 if short or k == 1 else annealing,
        seed=problem.settings.seed,
    )


def _nest_best(problem: Problem, states: list[Alternation], trials: _Trials) -> Alternation | None:
    """Return the cheapest nesting of the last state or of those with a half, a quarter, .. of its subspaces.

    None where none is cheaper than the last state itself.
    """
    best, least, before = None, trials.lost(states[-1]), float("inf")
    for tried, state in enumerate(reversed(states)):
        levels = min(LEVELS, problem.settings.max_subspaces // len(state.bases))
        if levels < 2:
            continue
        nested = nest(
            problem.rows,
            _run(problem, state.labels, len(state.bases), short=False) if tried else state,
            problem.settings.budget * problem.share,
            basis_price=problem.basis_price * problem.share,
            levels=levels,
            phases=_SAMPLE_PHASES if problem.is_sampled else PHASES,
            tol=problem.settings.tol,
        )
        lost = trials.add(nested)
        if lost < least:
            best, least = nested, lost
        if lost >= before or problem.is_sampled:
            break
        before = lost
    return best


def _judged(problem: Problem, state: Alternation) -> tuple[float, float]:
    """Return what the judges cost with as many numbers a row as the fitted rows take, and the multiplier for it."""
    judges, device = problem.judges, problem.rows.table.device
    ranks = torch.tensor([len(basis) for basis in state.bases], dtype=torch.float64, device=device)
    fitted = problem.rows.counts
    numbers = float((fitted * ranks[state.labels]).sum() / fitted.sum())
    residuals = _residuals(judges, state).double().mul_(judges.weights[:, None])
    allowed = numbers * float(judges.counts.sum()) * (1 + 1e-9)
    labels, multiplier = assign_within(judges, residuals, ranks, allowed, state.multiplier)
    return float(residuals.gather(1, labels[:, None]).sum()), multiplier


def _residuals(rows: WeightedRows, state: Alternation) -> Tensor:
    if not state.groups:
        return squared_residuals(rows, state.bases)
    # what subspaces of one basis have in common is multiplied once
    segments, parts = layout(groups_of(state.bases, state.groups), rows.table.device)
    return squared_residuals(rows, segments, parts)
