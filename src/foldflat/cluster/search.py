"""How many subspaces? Double k while the cost at equal parameters falls."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.allocation import largest_equal_rank
from foldflat.cluster.alternate import Alternation
from foldflat.cluster.fit import Clustering, continue_fit, finished, fit_rows, fitted_cost
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.subspace import captured_energy
from foldflat.errors import BudgetError
from foldflat.randomness import torch_generator

__all__ = ["Trial", "search_subspaces"]

_SAMPLE_ROWS = 32768
_SHORT_STEPS = 16
_SHORT_TOL = 1e-3
_FULL_STEPS = 8


@dataclass(frozen=True)
class Trial:
    """Record one number of subspaces that was tried.

    Attributes:
        n_subspaces: k.
        energy_lost: weighted squared distances over weighted energy, after a short run.
        rows: rows that the short run used.
    """

    n_subspaces: int
    energy_lost: float
    rows: int


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
    """Try k = 1, 2, 4, .. with short runs under one budget, then continue the best to convergence.

    The doubling ends at the first k that is worse than half of it, or where no rank fits. Above 32,768 rows the
    short runs see a sample and a budget that stand in the same proportion; the best converges on the sample and
    takes at most eight steps on all rows.

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
    sample, share = _sample(rows, seed)
    price = rows.n_features * share
    energy = sample.scale * float((sample.weights * sample.squared_norms().double()).sum())
    trials: list[Trial] = []
    best: Alternation | None = None
    k = 1
    while k <= min(max_subspaces, len(sample)):
        rank = None if free else _rank(table, k, budget)
        if rank == 0:
            break
        short = fit_rows(
            sample,
            k,
            rank,
            budget * share,
            basis_price=price,
            seed=seed,
            max_iter=_SHORT_STEPS,
            tol=_SHORT_TOL,
        )
        trial = Trial(k, fitted_cost(sample, short) / energy if energy else 0.0, len(sample))
        trials.append(trial)
        if watch is not None:
            watch(trial)
        if best is not None and trial.energy_lost >= min(t.energy_lost for t in trials[:-1]):
            break
        best = short
        k *= 2
    assert best is not None
    k = len(best.bases)
    rank = None if free else _rank(table, k, budget)
    if sample is rows:
        state = continue_fit(rows, best.labels, k, rank, budget, max_iter=max_iter, tol=tol)
        return finished(rows, state), trials
    on_sample = continue_fit(
        sample, best.labels, k, rank, budget * share, basis_price=price, max_iter=max_iter, tol=tol
    )
    steps = min(max_iter, _FULL_STEPS)
    state = continue_fit(rows, _extend(rows, on_sample), k, rank, budget, max_iter=steps, tol=tol)
    return finished(rows, state), trials


def _rank(table: Tensor, k: int, budget: float) -> int:
    return largest_equal_rank(table.shape[0], table.shape[1], k, budget)


def _sample(rows: WeightedRows, seed: int) -> tuple[WeightedRows, float]:
    if len(rows) <= _SAMPLE_ROWS:
        return rows, 1.0
    chosen = torch.randperm(len(rows), generator=torch_generator(seed))[:_SAMPLE_ROWS].sort().values
    sample = rows.subset(chosen.to(rows.table.device))
    return sample, float(sample.counts.sum() / rows.counts.sum())


def _extend(rows: WeightedRows, fitted: Alternation) -> Tensor:
    ranks = [len(basis) for basis in fitted.bases]
    stacked = torch.cat(fitted.bases)
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.table.device)
    rents = fitted.multiplier * torch.tensor(ranks, dtype=torch.float64, device=rows.table.device)
    for part in blocks(len(rows), max(stacked.shape[0], rows.n_features)):
        captured = captured_energy(rows.block(part), stacked, ranks).double()
        gain = rows.weights[part, None] * captured - rows.counts[part, None] * rents
        labels[part] = gain.argmax(1)
    return labels
