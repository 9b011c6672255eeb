"""The alternation: assign every row to a subspace, refit every subspace, until the cost stands still."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foldflat.cluster.allocation import Allocation, allocate_at_multiplier, allocate_within_budget
from foldflat.cluster.assignment import DoubtfulRows, assign_rows, narrow_products_pay
from foldflat.cluster.grams import ClusterGrams
from foldflat.cluster.pace import Pace
from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.subspace import eigenbases, eigenbases_of, eigenbasis, gram_matrix, pulled_bases
from foldflat.randomness import torch_generator

__all__ = ["Alternation", "RankRule", "alternate", "equal_ranks", "free_ranks"]

_LEAST_PULLED = 256
_LEAST_SHARE_PULLED = 2.0**-6
_TEMPERATURE = 0.03
_COOLING = 0.02


@dataclass
class Alternation:
    """Hold the state of one alternation.

    Attributes:
        labels: (m,) subspace of each distinct row.
        bases: k matrices (rank_i, d) with orthonormal rows.
        multiplier: energy that one parameter must save; zero for equal ranks.
        costs: after each refit, what no step can raise: weighted squared distances, plus multiplier x parameters.
        phases: for each entry of `costs`, the phase it belongs to; the multiplier is constant within a phase.
        converged: whether the relative change fell below the tolerance.
        groups: for each subspace, the basis that it is spanned by the first directions of; empty where each has its
            own.
    """

    labels: Tensor
    bases: list[Tensor] = field(default_factory=list)
    multiplier: float = 0.0
    costs: list[float] = field(default_factory=list)
    phases: list[int] = field(default_factory=list)
    converged: bool = False
    groups: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class RankRule:
    """Decide the ranks of clusters from their spectra.

    Attributes:
        solve: (gains (k, d), row counts (k,)) -> allocation that may move the multiplier.
        hold: the same at a given multiplier.
        finish: the allocation of the delivered result.
        basis_price: parameters of one basis vector, d on the whole table.
        rank: the common rank, None when ranks are free.
    """

    solve: Callable[[np.ndarray, np.ndarray], Allocation]
    hold: Callable[[np.ndarray, np.ndarray, float], Allocation]
    finish: Callable[[np.ndarray, np.ndarray], Allocation]
    basis_price: float
    rank: int | None

    def price(self, gains: np.ndarray, sizes: np.ndarray, multiplier: float) -> np.ndarray:
        """Return what each cluster costs (k,): the energy that it loses, and multiplier x parameters."""
        ranks = self.hold(gains, sizes, multiplier).ranks
        lost = np.where(np.arange(gains.shape[1]) < ranks[:, None], 0.0, gains).sum(1)
        prices: np.ndarray = lost + multiplier * ranks * (sizes + self.basis_price)
        return prices


def equal_ranks(rank: int) -> RankRule:
    """Return the paper's rule: every subspace has the same rank."""

    def same(_: np.ndarray, sizes: np.ndarray) -> Allocation:
        return Allocation(np.full(len(sizes), rank), 0.0, float(rank * sizes.sum()))

    return RankRule(same, lambda gains, sizes, _: same(gains, sizes), same, 0.0, rank)


def free_ranks(budget: float, basis_price: float) -> RankRule:
    """Return the rule that spends `budget` parameters where they save most.

    A direction of a cluster of n_i rows costs n_i + `basis_price` parameters and saves its eigenvalue.
    """

    def solve(gains: np.ndarray, sizes: np.ndarray) -> Allocation:
        return allocate_within_budget(gains, sizes + basis_price, budget)

    def hold(gains: np.ndarray, sizes: np.ndarray, multiplier: float) -> Allocation:
        return allocate_at_multiplier(gains, sizes + basis_price, multiplier)

    def finish(gains: np.ndarray, sizes: np.ndarray) -> Allocation:
        return allocate_within_budget(gains, sizes + basis_price, budget, fill=True)

    return RankRule(solve, hold, finish, basis_price, None)


def alternate(
    rows: WeightedRows,
    labels: Tensor,
    k: int,
    rule: RankRule,
    *,
    max_iter: int,
    tol: float,
    annealing: int = 0,
    seed: int = 0,
) -> Alternation:
    """Lower the cost from a first partition until it changes by less than `tol` relative, or `max_iter` steps.

    One step refits the subspaces, assigns rows anew, and refills clusters that have too few. For equal ranks three
    steps of four assign only the rows whose choice was closest, see `DoubtfulRows`, and with 256 features or more
    they pull the bases by one orthogonal iteration; what is delivered has been fitted and confirmed on all rows. For
    free ranks the multiplier is solved for the budget at the start of each phase and held for the phase's other
    steps.

    Args:
        rows: m distinct rows.
        labels: (m,) in 0..k-1.
        k: number of subspaces.
        rule: how ranks follow from spectra.
        max_iter: steps after annealing.
        annealing: number of first steps that draw the subspace of a row at a temperature, which falls to a fiftieth.
        seed: of those draws.
    """
    state = Alternation(labels)
    grams = ClusterGrams(rows, k)
    _anneal(rows, state, grams, rule, annealing, torch_generator(seed))
    # float64 zero of the cost: below it a change is rounding, not progress
    pace = Pace(rule.rank is not None, tol, 1e-12 * rows.energy(), annealing)
    doubtful = DoubtfulRows(rows) if rule.rank is not None else None
    cost = share = 0.0
    for step in range(max_iter):
        unmoved = grams.are_computed(state.labels) and not pace.opening
        if unmoved:
            pace.confirming |= pace.sweeping
        else:
            afresh = pace.confirming or step == max_iter - 1
            pulls = not (afresh or pace.opening or pace.sweeping) and _may_pull(rows, share)
            if pulls:
                cost, share = _pull(state, grams)
            else:
                cost, share = _refit(rows, state, grams, rule, solve=pace.opening, afresh=afresh)
        state.costs.append(cost)
        state.phases.append(pace.phase)
        state.converged = pace.has_converged(cost)
        if state.converged:
            break
        if doubtful is None or pace.sweeping:
            _reassign(rows, state, rule, share, doubtful=doubtful)
        else:
            _reassign_doubtful(rows, state, rule, share, doubtful)
    if rule.rank is None:
        _finish(rows, state, k, rule)
    return state


def _anneal(
    rows: WeightedRows,
    state: Alternation,
    grams: ClusterGrams,
    rule: RankRule,
    steps: int,
    generator: torch.Generator,
) -> None:
    for step in range(steps):
        cost, share = _refit(rows, state, grams, rule, solve=True)
        state.costs.append(cost)
        state.phases.append(step)
        temperature = _TEMPERATURE * _COOLING ** (step / max(1, steps - 1))
        _reassign(rows, state, rule, share, temperature, generator)


def _refit(
    rows: WeightedRows, state: Alternation, grams: ClusterGrams, rule: RankRule, *, solve: bool, afresh: bool = True
) -> tuple[float, float]:
    """Fit the subspaces to the clusters; return the cost, with what parameters cost, and the share of energy lost."""
    values, vectors = eigenbases_of(grams.computed(state.labels) if afresh else grams.followed(state.labels))
    sizes = _row_counts(rows, state.labels, len(values))
    gains = values.double().cpu().numpy()
    allocation = rule.solve(gains, sizes) if solve else rule.hold(gains, sizes, state.multiplier)
    state.multiplier = allocation.multiplier
    state.bases = _leading(vectors, allocation)
    lost = sum(float(gains[i, rank:].sum()) for i, rank in enumerate(allocation.ranks))
    rent = state.multiplier * float(allocation.ranks @ (sizes + rule.basis_price))
    return lost + rent, lost / max(float(gains.sum()), np.finfo(float).tiny)


def _may_pull(rows: WeightedRows, share_lost: float) -> bool:
    """Say whether an orthogonal iteration pays, and its cost, a difference of energies, has the digits it needs."""
    return rows.n_features >= _LEAST_PULLED and share_lost > _LEAST_SHARE_PULLED


def _pull(state: Alternation, grams: ClusterGrams) -> tuple[float, float]:
    """Bring the subspaces nearer to the clusters; return the cost, and the share of energy lost."""
    followed = grams.followed(state.labels)
    state.bases, captured = pulled_bases(followed, state.bases)
    energy = sum(float(gram.diagonal().sum(dtype=torch.float64)) for gram in followed)
    cost = energy - float(captured.sum())
    return cost, cost / energy


def _reassign(
    rows: WeightedRows,
    state: Alternation,
    rule: RankRule,
    share_lost: float,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    doubtful: DoubtfulRows | None = None,
) -> None:
    narrow = narrow_products_pay(rows, sum(len(basis) for basis in state.bases), share_lost)
    state.labels, row_costs = assign_rows(
        rows,
        state.bases,
        state.multiplier,
        narrow=narrow,
        temperature=temperature,
        generator=generator,
        margins=None if doubtful is None else doubtful.margins,
    )
    if doubtful is not None:
        doubtful.costs = row_costs
    _refill(rows, state, row_costs, rule)


def _reassign_doubtful(
    rows: WeightedRows, state: Alternation, rule: RankRule, share_lost: float, doubtful: DoubtfulRows
) -> None:
    narrow = narrow_products_pay(rows, sum(len(basis) for basis in state.bases), share_lost)
    state.labels = doubtful.assigned(state.labels, state.bases, narrow=narrow)
    # the costs of other rows are those of earlier bases, which only decides who refills an empty cluster
    _refill(rows, state, doubtful.costs, rule)


def _finish(rows: WeightedRows, state: Alternation, k: int, rule: RankRule) -> None:
    values, vectors = eigenbases(rows, state.labels, k)
    allocation = rule.finish(values.double().cpu().numpy(), _row_counts(rows, state.labels, k))
    state.multiplier = allocation.multiplier
    state.bases = _leading(vectors, allocation)


def _row_counts(rows: WeightedRows, labels: Tensor, k: int) -> np.ndarray:
    return torch.bincount(labels, weights=rows.counts, minlength=k).cpu().numpy()


def _leading(vectors: Tensor, allocation: Allocation) -> list[Tensor]:
    # copies, so that the other directions are freed
    return [vectors[i, :rank].clone() for i, rank in enumerate(allocation.ranks.tolist())]


def _refill(rows: WeightedRows, state: Alternation, row_costs: Tensor, rule: RankRule) -> None:
    """Give clusters with fewer distinct rows than their rank the rows that fit worst elsewhere.

    `row_costs` is lowered in place. Fewer rows than the rank are fitted exactly, and a subspace refitted to its
    rows captures at least what it did, so the cost cannot rise. With free ranks an empty cluster is refilled only
    where that lowers cost plus multiplier x parameters.
    """
    k = len(state.bases)
    sizes = torch.bincount(state.labels, minlength=k).tolist()
    for cluster in range(k):
        wanted = rule.rank if rule.rank is not None else max(1, len(rows) // (4 * k))
        short = sizes[cluster] < wanted if rule.rank is not None else sizes[cluster] == 0
        if not short:
            continue
        donors = torch.tensor([size > wanted for size in sizes], device=row_costs.device)[state.labels]
        candidates = torch.where(donors, row_costs, torch.zeros_like(row_costs))
        worst = candidates.topk(min(wanted - sizes[cluster], len(rows))).indices
        worst = worst[candidates[worst] > 0]
        if not len(worst):
            continue
        _move(rows, state, row_costs, worst, cluster, rule)
        sizes = torch.bincount(state.labels, minlength=k).tolist()


def _move(
    rows: WeightedRows, state: Alternation, row_costs: Tensor, moved: Tensor, cluster: int, rule: RankRule
) -> None:
    members = torch.cat([moved, torch.nonzero(state.labels == cluster).squeeze(1)])
    values, vectors = eigenbasis(gram_matrix(rows, members))
    if rule.rank is not None:
        rank, cost = rule.rank, float(values[rule.rank :].sum())
    else:
        count = float(rows.counts[members].sum())
        gains = values.double().cpu().numpy()[None]
        rank = int(rule.hold(gains, np.array([count]), state.multiplier).ranks[0])
        # rent of the rows; that of the basis is part of the objective, not of any row's cost
        cost = float(values[rank:].sum()) + state.multiplier * count * rank
        basis_cost = state.multiplier * rule.basis_price * (rank - len(state.bases[cluster]))
        if rank == 0 or cost + basis_cost >= float(row_costs[members].sum()):
            return
    state.labels[members] = cluster
    state.bases[cluster] = vectors[:rank]
    row_costs[members] = cost / len(members)
