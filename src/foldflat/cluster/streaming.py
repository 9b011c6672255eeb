"""Fit a table of any size: decide on a sample, then pass over all rows, on one process or several."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar

from torch import Tensor

from foldflat.cluster.alternate import Alternation
from foldflat.cluster.distributed import Alone, Team, place_of
from foldflat.cluster.draws import Drawn, draw_by_shares, draw_uniformly
from foldflat.cluster.groups import groups_of, ranks_of, subspaces_of
from foldflat.cluster.importance import rough_bases, row_shares
from foldflat.cluster.refine import Refinement, refine
from foldflat.cluster.resume import Checkpoint
from foldflat.cluster.source import RowSource
from foldflat.cluster.sweep import Block
from foldflat.cluster.trials import Problem, SearchSettings, Trial, choose_subspaces, multiplier_for
from foldflat.errors import FoldflatError
from foldflat.randomness import spawn_seeds

__all__ = ["JUDGE_ROWS", "PILOT_ROWS", "SAMPLE_ROWS", "StreamedFit", "fit_source"]

SAMPLE_ROWS = 32768
"""Rows that the search for k and the first fit see."""

JUDGE_ROWS = 8192
"""Rows drawn beside them, by which the search judges."""

PILOT_ROWS = 4096
"""Rows of the rough solution that says how likely each row is to be drawn."""

_PASSES = 3
_EQUAL_RANK_PASSES = 8

_Begun = tuple[Refinement, list[Trial]]
_Found = TypeVar("_Found")


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

    The number of subspaces, their ranks and first bases come from 32,768 drawn rows, judged on 8,192 drawn beside
    them; rank 0 finds them. Unless `settings.sampling` is "uniform", one pass over all rows first finds out how much
    each matters to a rough solution, and rows stand for as many as they are unlikely. Then every rank passes over its
    own rows, and only Gram matrices, counts and costs are added up: k d^2 numbers a pass. Of a smaller table the
    sample is all rows.

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
    first, n = place_of(rows.shape[0], team)
    block = Block(rows, weights, team, first)
    d = rows.shape[1]
    team.agree(f"{settings}, rows of {d} {rows.dtype}, {'no ' if weights is None else ''}row weights")
    settings.check_budget(n, d)
    drawn = _first_draw(block, n, settings)
    kept = None
    if checkpoint is not None and team.rank == 0:
        kept = Checkpoint(checkpoint, {**asdict(settings), "shape": [n, d], "rows drawn": _digest(drawn)})
    state, trials = _begun(block, n, settings, drawn, kept, watch)
    del drawn
    for group in state.groups:
        group.directions = group.directions.to(rows.device)
    labels = refine(
        block,
        state,
        settings.budget,
        basis_price=settings.price_of_basis_vector(d),
        max_passes=_PASSES if settings.free else _EQUAL_RANK_PASSES,
        tol=settings.tol,
        store=None if kept is None else lambda reached: kept.store(reached, trials),
    )
    return _finished(labels, state, trials)


def _first_draw(block: Block, n: int, settings: SearchSettings) -> Drawn:
    """Return the sample, or the rows of a rough solution where that decides what to draw."""
    size = PILOT_ROWS if _is_drawn_by_importance(n, settings) else SAMPLE_ROWS + JUDGE_ROWS
    return draw_uniformly(block, n, size, settings.seed)


def _is_drawn_by_importance(n: int, settings: SearchSettings) -> bool:
    return settings.sampling == "importance" and n > SAMPLE_ROWS + JUDGE_ROWS


def _begun(
    block: Block,
    n: int,
    settings: SearchSettings,
    drawn: Drawn,
    kept: Checkpoint | None,
    watch: Callable[[Trial], None] | None,
) -> _Begun:
    """Return the state of a checkpoint, or what a search in a sample says; rank 0's on every rank."""
    stored = _from_first(block.team, lambda: None if kept is None else kept.load())
    if stored is not None:
        return stored
    problem = _problem(block, n, settings, drawn)
    return _from_first(block.team, lambda: _searched(problem, kept, watch))


def _problem(block: Block, n: int, settings: SearchSettings, drawn: Drawn) -> Problem:
    """Return the rows to search in; all ranks take part in drawing them."""
    device = block.rows.device
    if _is_drawn_by_importance(n, settings):
        rough = _from_first(block.team, lambda: rough_bases(drawn.distinct(device), n, settings))
        shares = row_shares(block, [basis.to(device) for basis in rough])
        fitted, judging = spawn_seeds(settings.seed, 2)
        rows = draw_by_shares(block, shares, SAMPLE_ROWS, fitted).distinct(device)
        return Problem(settings, rows, draw_by_shares(block, shares, JUDGE_ROWS, judging).distinct(device), n)
    if len(drawn.rows) == n:
        rows = drawn.distinct(device)
        return Problem(settings, rows, rows, n)
    rows = drawn.distinct(device, slice(SAMPLE_ROWS))
    return Problem(settings, rows, drawn.distinct(device, slice(SAMPLE_ROWS, None)), n)


def _searched(problem: Problem, kept: Checkpoint | None, watch: Callable[[Trial], None] | None) -> _Begun:
    state, trials = choose_subspaces(problem, watch)
    found = _first_state(problem, state), trials
    if kept is not None:
        kept.store(*found)
    return found


def _from_first(team: Team, find: Callable[[], _Found]) -> _Found:
    """Return what rank 0 finds, or raise on every rank the error that it meets."""
    found: _Found | FoldflatError | None = None
    if team.rank == 0:
        try:
            found = find()
        except FoldflatError as error:
            # the others wait for what rank 0 finds, and should hear why there is nothing
            found = error
    heard: _Found | FoldflatError = team.from_first(found)
    if isinstance(heard, FoldflatError):
        raise heard
    return heard


def _first_state(problem: Problem, state: Alternation) -> Refinement:
    groups = groups_of(state.bases, state.groups or range(len(state.bases)))
    free = len(ranks_of(groups).unique()) > 1
    return Refinement(groups, multiplier_for(problem, state) if free else 0.0)


def _digest(drawn: Drawn) -> str:
    # adding zero turns -0.0 into 0.0, as a sum over ranks does
    digest = hashlib.sha256((drawn.rows + 0.0).numpy().data)
    digest.update(drawn.weights.numpy().data)
    return digest.hexdigest()


def _finished(labels: Tensor, state: Refinement, trials: list[Trial]) -> StreamedFit:
    bases, owners = subspaces_of(state.groups)
    return StreamedFit(labels, bases, owners, state.costs, state.multiplier, state.converged, trials)
