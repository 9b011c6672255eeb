"""Fit a table of any size: decide on a sample, then pass over all rows, on one process or several."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from foldflat.axes import blocks, compute_dtype
from foldflat.cluster.alternate import Alternation
from foldflat.cluster.distributed import Alone, Team
from foldflat.cluster.groups import Group, longest_bases, ranks_of, subspaces_of
from foldflat.cluster.refine import Refinement, refine
from foldflat.cluster.resume import Checkpoint
from foldflat.cluster.rows import distinct_rows
from foldflat.cluster.source import RowSource
from foldflat.cluster.sweep import Block
from foldflat.cluster.trials import Problem, SearchSettings, Trial, choose_subspaces, multiplier_for
from foldflat.errors import FoldflatError

__all__ = ["JUDGE_ROWS", "SAMPLE_ROWS", "StreamedFit", "fit_source"]

SAMPLE_ROWS = 32768
"""Rows that the search for k and the first fit see."""

JUDGE_ROWS = 8192
"""Other rows, by which the search judges."""

_PASSES = 3
_EQUAL_RANK_PASSES = 8


@dataclass(frozen=True)
class StreamedFit:
    """Hold subspaces fitted to all rows of all ranks.

    Attributes:
        labels: (n,) int16, the subspace of each of this rank's rows.
        bases: k matrices (rank_i, d) with orthonormal rows.
        groups: for each subspace, the basis that it is spanned by the first directions of.
        costs: weighted squared distances + multiplier x parameters after each pass.
        multiplier: energy that one coefficient had to save.
        converged: whether the passes ended by the tolerance.
        trials: numbers of subspaces tried on the sample.
    """

    labels: Tensor
    bases: list[Tensor]
    groups: list[int]
    costs: list[float]
    multiplier: float
    converged: bool
    trials: list[Trial]


def fit_source(
    rows: RowSource,
    weights: Tensor | None,
    settings: SearchSettings,
    *,
    team: Team | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    watch: Callable[[Trial], None] | None = None,
) -> StreamedFit:
    """Fit subspaces to rows that are read chunk by chunk; equal rows are not merged.

    The number of subspaces, their ranks and first bases come from 32,768 rows drawn uniformly, judged on 8,192
    others; rank 0 finds them. Then every rank passes over its own rows, and only Gram matrices, counts and costs are
    added up: k d^2 numbers a pass. Of a smaller table the sample is all rows.

    Args:
        rows: (n, d), this rank's part of the table, finite.
        weights: (n,) non-negative row weights, None for one each.
        settings: what is asked of the table of all ranks; its budget is never exceeded.
        team: the processes that hold the other parts.
        checkpoint: file to keep the state in after each pass; a run that finds one of the same table and settings
            goes on from it. It stays there for the caller to delete.
        watch: called on rank 0 with every trial.

    Raises:
        BudgetError: not even rank 1 fits.
        DataError: rows or weights are unusable.
        RecipeError: the ranks were given different settings.
        CheckpointError: the checkpoint is damaged or belongs to another fit.
        TeamError: another rank stopped.

    Source: ours; the alternation is that of Maalouf et al., ICLR 2021.
    """
    team = Alone() if team is None else team
    first, n = _place(rows.shape[0], team)
    block = Block(rows, weights, team, first)
    d = rows.shape[1]
    team.agree(f"{settings}, rows of {d} {rows.dtype}, {'no ' if weights is None else ''}row weights")
    settings.check_budget(n, d)
    sampled, sampled_weights = _drawn(block, n, settings.seed)
    kept = None
    if checkpoint is not None and team.rank == 0:
        task = {**asdict(settings), "shape": [n, d], "rows drawn": _digest(sampled, sampled_weights)}
        kept = Checkpoint(checkpoint, task)
    state, trials = _begun(team, kept, settings, sampled, sampled_weights, n, rows.device, watch)
    del sampled
    for group in state.groups:
        group.directions = group.directions.to(rows.device)
    labels = refine(
        block,
        state,
        settings.budget,
        max_passes=_PASSES if settings.free else _EQUAL_RANK_PASSES,
        tol=settings.tol,
        store=None if kept is None else lambda reached: kept.store(reached, trials),
    )
    return _finished(labels, state, trials)


def _place(rows: int, team: Team) -> tuple[int, int]:
    """Return the position of this rank's first row in the table of all ranks, and the rows of that."""
    sizes = torch.zeros(team.size, dtype=torch.int64)
    sizes[team.rank] = rows
    sizes = team.total(sizes)
    return int(sizes[: team.rank].sum()), int(sizes.sum())


def _drawn(block: Block, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return rows (s, d) drawn without replacement from all ranks, and their weights (s,), the same on each rank."""
    size = min(n, SAMPLE_ROWS + JUDGE_ROWS)
    positions = torch.from_numpy(np.random.default_rng(seed).choice(n, size, replace=False))
    here = torch.nonzero((positions >= block.first) & (positions < block.first + len(block))).squeeze(1)
    own = positions[here] - block.first
    drawn = torch.zeros(size, block.rows.shape[1], dtype=compute_dtype(block.rows.dtype))
    weights = torch.zeros(size, dtype=torch.float64)
    for part in blocks(len(here), drawn.shape[1]):
        drawn[here[part]] = block.rows[own[part].to(block.rows.device)].to("cpu", drawn.dtype)
    weights[here] = (
        1.0 if block.weights is None else block.weights[own.to(block.weights.device)].to("cpu", weights.dtype)
    )
    return block.team.total(drawn), block.team.total(weights)


def _begun(
    team: Team,
    kept: Checkpoint | None,
    settings: SearchSettings,
    sampled: Tensor,
    weights: Tensor,
    n: int,
    device: torch.device,
    watch: Callable[[Trial], None] | None,
) -> tuple[Refinement, list[Trial]]:
    """Return the state of a checkpoint, or what the sample says; rank 0's on every rank."""
    found: tuple[Refinement, list[Trial]] | FoldflatError | None = None
    try:
        found = kept.load() if kept is not None else None
        if found is None and team.rank == 0:
            problem = _problem(settings, sampled.to(device), weights.to(device), n)
            state, trials = choose_subspaces(problem, watch)
            found = _first_state(problem, state), trials
            if kept is not None:
                kept.store(*found)
    except FoldflatError as error:
        # the others wait for what rank 0 finds, and should hear why there is nothing
        found = error
    begun: tuple[Refinement, list[Trial]] | FoldflatError = team.from_first(found)
    if isinstance(begun, FoldflatError):
        raise begun
    return begun


def _problem(settings: SearchSettings, sampled: Tensor, weights: Tensor, n: int) -> Problem:
    if len(sampled) == n:
        rows = distinct_rows(sampled, weights)
        return Problem(settings, rows, rows, n)
    rows = distinct_rows(sampled[:SAMPLE_ROWS], weights[:SAMPLE_ROWS])
    return Problem(settings, rows, distinct_rows(sampled[SAMPLE_ROWS:], weights[SAMPLE_ROWS:]), n)


def _first_state(problem: Problem, state: Alternation) -> Refinement:
    owners = state.groups or list(range(len(state.bases)))
    ranks: dict[int, set[int]] = {}
    for owner, basis in zip(owners, state.bases, strict=True):
        ranks.setdefault(owner, set()).add(len(basis))
    groups = [Group(basis, sorted(ranks[owner])) for owner, basis in longest_bases(state.bases, owners).items()]
    free = len(ranks_of(groups).unique()) > 1
    return Refinement(groups, multiplier_for(problem, state) if free else 0.0)


def _digest(sampled: Tensor, weights: Tensor) -> str:
    # adding zero turns -0.0 into 0.0, as a sum over ranks does
    digest = hashlib.sha256((sampled + 0.0).numpy().data)
    digest.update(weights.numpy().data)
    return digest.hexdigest()


def _finished(labels: Tensor, state: Refinement, trials: list[Trial]) -> StreamedFit:
    bases, owners = subspaces_of(state.groups)
    return StreamedFit(labels, bases, owners, state.costs, state.multiplier, state.converged, trials)
