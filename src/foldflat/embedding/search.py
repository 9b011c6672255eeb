"""Which way to store a table: candidates tried from the cheapest to the dearest, until all are or somebody stops it."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldflat.cluster.source import RowSource
from foldflat.cluster.streaming import JUDGE_ROWS, SAMPLE_ROWS
from foldflat.embedding.candidates import Candidate, Measured, Task, fit_fully, measure, mixed_at, rivals, tried
from foldflat.embedding.error import table_error
from foldflat.embedding.fitting import Fitted, Table, Watch, dense_bytes, fit
from foldflat.embedding.previews import Preview, Sample
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import BudgetError, DataError, MissingDependencyError

__all__ = ["NEGLIGIBLE", "Found", "Row", "drawn_sample", "search", "task_for"]

NEGLIGIBLE = 2e-4
"""Energy lost below which candidates count as equal and the smallest is taken: about what int8 rows lose."""

_EVERYTHING = 0.999
_OPTIMISM = 2.0
_OPTIMISM_OF_MIXED = 1.1
_CURVE = (0.5, 0.8, 1.2, 2.0)
_ENDED = "not measured: the search was ended before"
_ENDED_BEFORE_FIT = "measured on some rows only: the search was ended before it was fitted"


@dataclass
class Row:
    """Say in JSON values what became of a candidate.

    Attributes:
        name: of the candidate.
        size_bytes, times_smaller: None where it was not measured.
        energy_lost: plain; None where only the weighted loss was measured.
        weighted_energy_lost: with the row weights, or the same without.
        rows_measured: rows that the losses are of; all rows once it was fitted.
        curve: whether it is measured to draw a curve only, at another size than was asked for.
        fits: whether it keeps to the budget, or to the error, and keeps anything.
        storable: whether foldflat can store it; others are rivals, which never win.
        front: whether nothing measured is both smaller and closer.
        note: why it was not measured, or what else to know.
        seconds: time that it took.
    """

    name: str
    size_bytes: int | None = None
    times_smaller: float | None = None
    energy_lost: float | None = None
    weighted_energy_lost: float | None = None
    rows_measured: int = 0
    fits: bool = False
    curve: bool = False
    storable: bool = True
    front: bool = False
    note: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        return asdict(self)


@dataclass
class Found:
    """Hold what a search found.

    Attributes:
        rows: every candidate, by size; those that were not measured last.
        winner: name of the one to take.
        asked: what of the recipe to change to fit it without a search.
        preview: what it takes and loses.
        fitted: the winner, None where only a sample of the rows was at hand.
        ended_early: whether somebody ended the search.
    """

    rows: list[Row]
    winner: str
    asked: dict[str, Any]
    preview: Preview
    fitted: Fitted | None = None
    ended_early: bool = False


def task_for(table: Table, recipe: EmbeddingRecipe, watch: Watch | None, sample: Sample | None = None) -> Task:
    """Return what a search is asked for a table: a keep ratio stands for that share of its bytes."""
    budget, ratio = table.budget_bytes, recipe.asked_keep_ratio
    if ratio is not None:
        budget = max(1, int(ratio * dense_bytes(table)))
    own = replace(recipe, keep_ratio=None, budget_bytes=budget)
    n = len(table.weight)
    if sample is None and n > SAMPLE_ROWS + JUDGE_ROWS and recipe.max_error is None:
        sample = drawn_sample(table.weight, table.row_weights, recipe.seed)
    if sample is None:
        sample = Sample(table.weight, torch.arange(n), n, table.row_weights)
    return Task(table, own, sample, watch)


def drawn_sample(rows: RowSource, weights: Tensor | None, seed: int) -> Sample:
    """Return 32,768 rows of a large table (n, d), drawn evenly."""
    n = rows.shape[0]
    positions = torch.from_numpy(np.random.default_rng(seed).choice(n, SAMPLE_ROWS, replace=False)).sort().values
    drawn = rows[positions.to(rows.device)]
    return Sample(drawn, positions, n, None if weights is None else weights[positions])


def search(task: Task) -> Found:
    """Try every candidate, and take the one of least weighted loss within the budget, or of fewest bytes.

    Losses below 0.02 % count as equal. A dear candidate is first measured on some rows, and fitted where it may be the
    best. A keyboard interrupt ends the search: the best of what was measured until then is taken.

    Raises:
        BudgetError: no candidate keeps to the budget, or to the error; the message names the nearest.
        KeyboardInterrupt: a search was ended before anything was found.
    """
    return _Search(task).run()


@dataclass
class _Search:
    task: Task
    rows: dict[str, Row] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)
    ended: bool = False
    only_fitted: bool = False

    def run(self) -> Found:
        for candidate in self._open(dear=False):
            self._try(candidate.name, partial(measure, self.task, candidate))
        for name, rival in rivals(self.task):
            self._try(name, partial(_only_measured, rival), storable=False)
        for candidate in self._open(dear=True):
            narrower = self._narrower(candidate)
            if narrower is None:
                self._try(candidate.name, partial(measure, self.task, candidate))
            else:
                note = f"not measured: its bytes hold half of the numbers of {narrower}"
                self.rows[candidate.name] = Row(candidate.name, note=note)
        winner = self._settle()
        self._draw_curve(winner)
        rows = sorted(self.rows.values(), key=lambda row: (row.size_bytes is None, row.size_bytes or 0))
        _mark_front(rows)
        found = self.measured[winner.name]
        return Found(rows, winner.name, found.asked, found.preview, found.fitted, self.ended)

    def _open(self, *, dear: bool) -> list[Candidate]:
        table = self.task.table.weight
        return [candidate for candidate in tried(self.task.recipe, table.dtype) if candidate.dear == dear]

    def _narrower(self, candidate: Candidate) -> str | None:
        """Return the subspaces in bfloat16 that leave no hope for those in the table's own, wider type, if they do.

        Rounding loses far less than the limit of what counts, so twice the numbers in the same bytes are closer.
        """
        if "coefficients" in candidate.changes or self.task.table.weight.element_size() <= 2:
            return None
        name = f"{candidate.name.split()[0]} bfloat16"
        found = self.measured.get(name)
        return name if found is not None and found.preview.weighted > NEGLIGIBLE else None

    def _try(self, name: str, find: Callable[[], Measured], *, storable: bool = True, curve: bool = False) -> None:
        row = self.rows.setdefault(name, Row(name, storable=storable, curve=curve))
        if self.ended:
            row.note = _ENDED
            return
        self.task.say(f"trying {name}; Ctrl-C ends the search and keeps what it found")
        try:
            self._attempt(row, find, _ENDED)
        except MissingDependencyError as error:
            row.note = f"not measured: {error}"

    def _attempt(self, row: Row, find: Callable[[], Measured], note_of_end: str) -> bool:
        """Keep what is found, or note why there is nothing; return whether somebody ended the search meanwhile."""
        started = time.perf_counter()
        try:
            self._keep(row, find())
        except (BudgetError, DataError) as error:
            row.note, row.fits = f"does not fit: {str(error).splitlines()[0]}", False
        except KeyboardInterrupt:
            self.ended, row.note = True, note_of_end
            return True
        finally:
            row.seconds += time.perf_counter() - started
        return False

    def _keep(self, row: Row, found: Measured) -> None:
        preview, recipe = found.preview, self.task.recipe
        row.size_bytes, row.rows_measured = preview.size_bytes, preview.rows
        row.times_smaller = dense_bytes(self.task.table) / preview.size_bytes
        row.energy_lost, row.weighted_energy_lost = preview.energy_lost, preview.weighted
        if recipe.max_error is not None:
            row.fits = preview.energy_lost is not None and preview.energy_lost <= recipe.max_error
        else:
            row.fits = preview.size_bytes <= (recipe.budget_bytes or 0) and preview.weighted < _EVERYTHING
        if row.curve:
            return
        self.measured[row.name] = found
        best = min((r for r in self._eligible() if self.measured[r.name].fitted), key=self._score, default=None)
        for name, other in self.measured.items():
            # of what was fitted, only the best can still be taken
            if best is not None and name != best.name:
                other.fitted = None

    def _eligible(self) -> list[Row]:
        found = [row for row in self.rows.values() if row.fits and row.storable and not row.curve]
        return [row for row in found if not self.only_fitted or self.measured[row.name].fitted]

    def _score(self, row: Row) -> tuple[float, float]:
        lost, size = row.weighted_energy_lost or 0.0, row.size_bytes or 0
        if self.task.recipe.max_error is not None:
            return size, lost
        if not self._is_settled(row):
            # subspaces of few rows are worse than those of all, trellis codes hardly differ
            lost /= _OPTIMISM_OF_MIXED if row.name == "mixed" else _OPTIMISM
        return max(lost, NEGLIGIBLE), size

    def _is_settled(self, row: Row) -> bool:
        return row.rows_measured == self.task.sample.n or not self.task.sample.is_whole

    def _settle(self) -> Row:
        """Return the best row, once it is fitted to all rows at hand."""
        while True:
            best = min(self._eligible(), key=self._score, default=None)
            if best is None:
                if self.ended:
                    raise KeyboardInterrupt
                raise BudgetError(_nothing_fits(self.task, list(self.rows.values())))
            foreseen = self.measured[best.name]
            if foreseen.fitted is not None or not self.task.sample.is_whole:
                return best
            self._fit(best, foreseen)

    def _fit(self, row: Row, foreseen: Measured) -> None:
        self.task.say(f"fitting {row.name}; Ctrl-C takes the best that is fitted already")
        if self._attempt(row, partial(fit_fully, self.task, foreseen), _ENDED_BEFORE_FIT):
            self.only_fitted = True

    def _draw_curve(self, winner: Row) -> None:
        budget = self.task.recipe.budget_bytes
        if budget is None or "mixed" not in self.measured or (winner.weighted_energy_lost or 0.0) <= NEGLIGIBLE:
            return
        for factor in _CURVE:
            size = int(factor * budget)
            if self.ended or size >= dense_bytes(self.task.table) // 2:
                return
            self._try(f"mixed at {factor:g} x", partial(_only_measured, partial(mixed_at, self.task, size)), curve=True)


def _only_measured(find: Callable[[], Preview]) -> Measured:
    return Measured(find(), {})


def _mark_front(rows: list[Row]) -> None:
    """Mark the rows, given by size, that lose less than all smaller ones."""
    least = float("inf")
    for row in rows:
        if row.weighted_energy_lost is not None and row.weighted_energy_lost < least:
            row.front, least = True, row.weighted_energy_lost


def _nothing_fits(task: Task, rows: list[Row]) -> str:
    measured = [row for row in rows if row.storable and row.energy_lost is not None and not row.curve]
    n, d = task.table.weight.shape
    name = f"{task.table.title} ({n} x {d})"
    if task.recipe.max_error is not None:
        closest = min(measured, key=lambda row: row.energy_lost or 0.0)
        return (
            f"no method loses at most {task.recipe.max_error} of the energy of {name}; the closest is {closest.name}, "
            f"which loses {closest.energy_lost:.3%} in {closest.size_bytes} bytes\nhint: raise `max_error` to that"
        )
    sizes = [(row.size_bytes or 0, row.name, row.energy_lost or 0.0) for row in measured if not row.fits]
    size, kind, lost = min([_rank_one(task), *(item for item in sizes if item[2] < _EVERYTHING)])
    return (
        f"{task.recipe.budget_bytes} bytes are too few for {name}: the smallest is {kind} in {size} bytes, which loses "
        f"{lost:.1%} of the energy\nhint: raise the budget to that, or exclude it"
    )


def _rank_one(task: Task) -> tuple[int, str, float]:
    """Return bytes, name and loss of a single direction."""
    (n, d), (m, _) = task.table.weight.shape, task.sample.rows.shape
    padding_idx = task.table.padding_idx if task.sample.is_whole else None
    kept = 0 if padding_idx is None else d * task.sample.rows.element_size()
    part = Table(task.table.name, task.sample.rows, padding_idx, task.sample.weights, 2 * (m + d) + m + kept)
    try:
        fitted = fit(part, EmbeddingRecipe(method="svd", coefficients="bfloat16", budget_bytes=part.budget_bytes))
    except BudgetError:
        return dense_bytes(task.table), "the table as it is", 0.0
    lost = table_error(part.weight, fitted.module).energy_lost
    return 2 * (n + d) + n + kept, "svd bfloat16 of rank 1", lost
