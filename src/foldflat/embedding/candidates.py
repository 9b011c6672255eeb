"""The ways to store a table that a search tries, as one table, and how each is measured."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from foldflat.embedding.error import table_error
from foldflat.embedding.fitting import Fitted, Table, Watch, dense_bytes, describe, fit, fitting_weights, settings_for
from foldflat.embedding.previews import PREVIEW_ROWS, Preview, Sample, preview_mixed, preview_subspaces
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.embedding.rivals import Bound, product_codes, trimmed
from foldflat.embedding.splitting import Split
from foldflat.embedding.storage import FORMATS
from foldflat.errors import BudgetError

__all__ = ["CANDIDATES", "Candidate", "Measured", "Task", "fit_fully", "measure", "mixed_at", "rivals", "tried"]

_DENSEST = 2
_SPARSEST = 256
_BISECTIONS = 7
_CORRECTIONS = 4
_STEP = 1.03


@dataclass(frozen=True)
class Candidate:
    """Name one way to store a table, by what of the recipe it changes; `dear` where fitting it takes minutes."""

    name: str
    changes: dict[str, Any]
    dear: bool = False

    @property
    def is_integer(self) -> bool:
        """Return whether rows are stored as integers, which have one size."""
        return self.changes["method"] in FORMATS

    @property
    def is_mixed(self) -> bool:
        """Return whether these are trellis codes, which have any size."""
        return self.changes.get("coefficients") == "mixed"


CANDIDATES: tuple[Candidate, ...] = (
    Candidate("int8", {"method": "int8", "coefficients": "same", "n_subspaces": "auto"}),
    Candidate("int4", {"method": "int4", "coefficients": "same", "n_subspaces": "auto"}),
    Candidate("svd", {"method": "svd", "coefficients": "bfloat16", "n_subspaces": "auto"}),
    Candidate("mixed", {"method": "subspaces", "coefficients": "mixed"}, dear=True),
    Candidate("subspaces", {"method": "subspaces", "coefficients": "bfloat16"}, dear=True),
    Candidate("subspaces", {"method": "subspaces"}, dear=True),
)
"""From the cheapest to the dearest to fit. A further format of coefficients is one more line."""


@dataclass
class Task:
    """Hold a table, what is asked of it, and what measuring it has found so far.

    Attributes:
        table: the table; its weight may be on the meta device, where only a sample is at hand.
        recipe: what is asked, its budget that of this table.
        sample: the rows at hand.
        watch: called with a line of progress.
        splits: of the rows at hand, for trellis codes.
    """

    table: Table
    recipe: EmbeddingRecipe
    sample: Sample
    watch: Watch | None = None
    splits: dict[int, Split] = field(default_factory=dict)

    @property
    def bound(self) -> Bound:
        """Return what rivals are held to."""
        return Bound(self.recipe.budget_bytes, self.recipe.max_error)

    def say(self, line: str) -> None:
        """Report progress."""
        if self.watch is not None:
            self.watch(f"{self.table.name or 'table'}: {line}")


@dataclass
class Measured:
    """Hold what a candidate takes and loses, fitted or foreseen; `asked` refits it without a search."""

    preview: Preview
    asked: dict[str, Any]
    fitted: Fitted | None = None


def tried(recipe: EmbeddingRecipe, dtype: torch.dtype) -> list[Candidate]:
    """Return the candidates for a table of a type, each with its format in its name.

    What a recipe says of coefficients and of the number of subspaces holds for all that have them.
    """
    own, found = str(dtype).removeprefix("torch."), []
    given = recipe.coefficients != "same"
    for candidate in CANDIDATES:
        changes = dict(candidate.changes)
        if candidate.is_integer or candidate.is_mixed:
            if candidate.is_integer or not (given or recipe.n_subspaces != "auto"):
                found.append(candidate)
            continue
        if given or changes.get("coefficients") == own:
            if changes["method"] != "svd" and "coefficients" in changes:
                continue
            changes.pop("coefficients", None)
        kind = changes.get("coefficients", recipe.coefficients if given else own)
        found.append(Candidate(f"{candidate.name} {kind}", changes, candidate.dear))
    return found


def measure(task: Task, candidate: Candidate) -> Measured:
    """Fit a candidate, or foresee what it would lose where it is dear and the table is not small.

    Raises:
        BudgetError: it does not fit the budget.
    """
    if candidate.is_integer:
        return _integers(task, candidate)
    is_foreseen = not task.sample.is_whole or (candidate.dear and task.sample.n > PREVIEW_ROWS)
    if candidate.is_mixed and task.recipe.max_error is not None:
        found = _mixed_within_error(task)
        return found if is_foreseen else fit_fully(task, found)
    if is_foreseen and task.recipe.max_error is None:
        return _foreseen(task, candidate)
    return _fitted(task, candidate.changes)


def _fitted(task: Task, changes: dict[str, Any]) -> Measured:
    """Fit the whole table by the recipe with some changes, and measure it.

    Raises:
        BudgetError: it does not fit the budget.
    """
    recipe = replace(task.recipe, **changes)
    table = replace(task.table, budget_bytes=recipe.budget_bytes)
    fitted = fit(table, recipe, task.watch)
    error = table_error(table.weight, fitted.module, table.row_weights)
    module = fitted.module
    preview = Preview(module.size_bytes, error.energy_lost, error.weighted, task.sample.n, module.parameters_stored)
    return Measured(preview, {**changes, **fitted.asked}, fitted)


def _foreseen(task: Task, candidate: Candidate) -> Measured:
    recipe = replace(task.recipe, **candidate.changes)
    assert recipe.budget_bytes is not None
    if candidate.is_mixed:
        return Measured(mixed_at(task, recipe.budget_bytes), candidate.changes)
    preview = preview_subspaces(
        task.sample,
        fitting_weights(task.table) if task.sample.is_whole else task.sample.weights,
        settings_for(replace(task.table, budget_bytes=recipe.budget_bytes), recipe),
        recipe.budget_bytes,
        watch=lambda trial: task.say(f"{candidate.name}, {describe('some rows', trial)}"),
    )
    return Measured(preview, candidate.changes)


def _integers(task: Task, candidate: Candidate) -> Measured:
    # they have one size: what they lose is told also where that is above the budget
    sample, padding_idx = task.sample, task.table.padding_idx if task.sample.is_whole else None
    part = Table(task.table.name, sample.rows, padding_idx, sample.weights)
    fitted = fit(part, EmbeddingRecipe(method=candidate.changes["method"]))
    error = table_error(part.weight, fitted.module, part.row_weights)
    size = fitted.module.size_bytes // len(part.weight) * sample.n
    preview = Preview(size, error.energy_lost, error.weighted, len(part.weight), sample.n * part.weight.shape[1])
    return Measured(preview, candidate.changes, fitted if sample.is_whole else None)


def mixed_at(task: Task, budget_bytes: int) -> Preview:
    """Foresee what trellis codes of so many bytes lose.

    Raises:
        BudgetError: the bytes are too few for them.
    """
    padding_idx = task.table.padding_idx if task.sample.is_whole else None
    return preview_mixed(task.sample, budget_bytes, padding_idx=padding_idx, seed=task.recipe.seed, splits=task.splits)


def _mixed_within_error(task: Task) -> Measured:
    """Foresee the fewest bytes, to 2 %, at which trellis codes lose little enough."""
    limit, dense = task.recipe.max_error, dense_bytes(task.table)
    assert limit is not None
    low, high = dense / _SPARSEST, dense / _DENSEST
    best = mixed_at(task, int(high))
    if (best.energy_lost or 0.0) > limit:
        raise BudgetError(f"{best.size_bytes} bytes still lose {best.energy_lost:.2%}")
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        try:
            found = mixed_at(task, int(middle))
        except BudgetError:
            low = middle
            continue
        task.say(f"mixed, {found.size_bytes:,} bytes lose {found.energy_lost:.2%} of the energy")
        if (found.energy_lost or 0.0) > limit:
            low = middle
        else:
            high, best = middle, found
    changes = {"method": "subspaces", "coefficients": "mixed", "max_error": None, "budget_bytes": int(high)}
    return Measured(best, changes)


def fit_fully(task: Task, foreseen: Measured) -> Measured:
    """Fit to all rows what was foreseen; trellis codes that lose more than they may get a few more bytes.

    Raises:
        BudgetError: it does not fit the budget, or loses more all the same.
    """
    limit, changes = task.recipe.max_error, dict(foreseen.asked)
    for _ in range(_CORRECTIONS):
        found = _fitted(task, changes)
        if limit is None or (found.preview.energy_lost or 0.0) <= limit:
            return found
        changes["budget_bytes"] = int(changes["budget_bytes"] * _STEP)
    raise BudgetError(f"{found.preview.size_bytes} bytes still lose {found.preview.energy_lost:.2%}")


def rivals(task: Task) -> list[tuple[str, Callable[[], Preview]]]:
    """Return what is measured though foldflat cannot store it."""
    sample, bound, counts = task.sample, task.bound, task.table.counts
    found: list[tuple[str, Callable[[], Preview]]] = [("pq", partial(product_codes, sample, bound))]
    if counts is not None:
        found += [
            (f"trimmed {stored or ''}".strip(), partial(trimmed, sample, counts, stored, bound))
            for stored in (None, *FORMATS)
        ]
    return found
