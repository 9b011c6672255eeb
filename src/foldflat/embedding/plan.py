"""What will be done to each table: printable, JSON, with the fitted modules in memory."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from foldflat.cluster.source import RowSource
from foldflat.embedding.base import CompressedEmbedding, check_finite
from foldflat.embedding.baselines import QuantizedEmbedding
from foldflat.embedding.candidates import Task
from foldflat.embedding.error import TableError, table_error
from foldflat.embedding.fitting import Fitted, Table, Watch, fit
from foldflat.embedding.reasons import reason
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.embedding.search import Found, search, task_for
from foldflat.embedding.storage import FORMATS
from foldflat.errors import BudgetError, FormatVersionError, PlanMismatchError
from foldflat.model.probe import FoundTable
from foldflat.model.size import tensor_sha256

__all__ = [
    "PLAN_FORMAT",
    "EmbeddingPlan",
    "TablePlan",
    "copy_search",
    "note_search",
    "plan_tables",
    "table_plan",
]

PLAN_FORMAT = 1
_RIVAL_ROWS = 16384


@dataclass
class TablePlan:
    """Say what becomes of one table.

    Attributes:
        names, heads: dotted names of the embeddings that use it and of the output layers tied to it.
        shape, dtype, sha256: of the weights the plan was made for.
        method: how it is stored.
        spec: layout of the replacement.
        parameters_before, parameters_after: numbers, counted as the paper does.
        size_bytes_before, size_bytes_after: every stored byte.
        energy_lost, weighted_energy_lost: predicted errors.
        trials: numbers of subspaces tried, with what each lost in a short run.
        rivals: what int8 and int4 rows would take and lose, measured on at most 16,384 evenly spaced rows.
        candidates: what a search tried, see `foldflat.embedding.search.Row`; empty where the recipe named a method.
        winner: name of the candidate that it chose.
        chosen: what of the recipe to change to fit that without a search.
        ended_early: whether somebody ended the search.
        reason: why it was chosen, in a sentence.
        converged: whether the alternation met its tolerance.
        seconds: time of the fit.
    """

    names: list[str]
    heads: list[str]
    shape: list[int]
    dtype: str
    sha256: str
    method: str
    spec: dict[str, Any]
    parameters_before: int
    parameters_after: int
    size_bytes_before: int
    size_bytes_after: int
    energy_lost: float
    weighted_energy_lost: float
    trials: list[dict[str, Any]] = field(default_factory=list)
    rivals: dict[str, dict[str, float]] = field(default_factory=dict)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    winner: str = ""
    chosen: dict[str, Any] = field(default_factory=dict)
    ended_early: bool = False
    reason: str = ""
    converged: bool = True
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Return the name that reports use."""
        return self.names[0] or "table"


@dataclass
class EmbeddingPlan:
    """Hold a plan for the embeddings of one model.

    Attributes:
        recipe: what was asked, as JSON values.
        tables: one entry per distinct weight.
        fits: replacement modules by table name; in memory only, refitted from the recipe when absent.
    """

    recipe: dict[str, Any]
    tables: list[TablePlan]
    fits: dict[str, CompressedEmbedding] = field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values, without fitted numbers."""
        tables = [asdict(table) for table in self.tables]
        return {"format": PLAN_FORMAT, "family": "embedding", "recipe": self.recipe, "tables": tables}

    def to_json(self) -> str:
        """Return the plan as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            FormatVersionError: written by a newer foldflat.
        """
        if values.get("format", 0) > PLAN_FORMAT:
            raise FormatVersionError(
                f"the plan has format {values['format']}, this foldflat reads up to {PLAN_FORMAT}; "
                "hint: upgrade foldflat"
            )
        return cls(values["recipe"], [TablePlan(**table) for table in values["tables"]])

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    def recipe_object(self) -> EmbeddingRecipe:
        """Return the recipe to refit with.

        Raises:
            PlanMismatchError: the row weights were numbers, which a plan does not hold.
        """
        values = dict(self.recipe)
        weights = values["row_weights"]
        if isinstance(weights, str) and weights.endswith(" numbers"):
            raise PlanMismatchError(
                f"the plan was made with {weights} as row weights, which it does not hold, so it cannot be refitted; "
                "hint: plan again with the weights, or give them as a file"
            )
        for key in ("include", "exclude"):
            values[key] = tuple(values[key]) if isinstance(values[key], list) else values[key]
        return EmbeddingRecipe(**values)


def plan_tables(
    found: list[FoundTable],
    recipe: EmbeddingRecipe,
    row_weights: dict[str, Tensor],
    counts: dict[str, Tensor],
    watch: Watch | None = None,
    *,
    planned: list[TablePlan] | None = None,
) -> EmbeddingPlan:
    """Fit a replacement of every table that was found.

    Args:
        found: the tables.
        recipe: what is asked; `budget_bytes` is shared in proportion to the tables' bytes.
        row_weights: (n,) positive tensors by table name; absent means one each.
        counts: (n,) tensors by table name, where the weights come from counts.
        watch: called with a line of progress.
        planned: what an earlier plan says of the same tables: what it chose is fitted without a search.

    Raises:
        DataError: a table holds NaN or infinite numbers.
    """
    total = sum(item.embedding.weight.numel() * item.embedding.weight.element_size() for item in found)
    plan = EmbeddingPlan(recipe.to_dict(), [])
    before = {table.names[0]: table for table in planned or ()}
    for item in found:
        weight = item.embedding.weight.detach()
        check_finite(weight, item.name)
        share = weight.numel() * weight.element_size() / total
        # less than a byte for a small table beside large ones is too few, not out of range
        budget = None if recipe.budget_bytes is None else max(1, int(recipe.budget_bytes * share))
        given = row_weights.get(item.name), budget, counts.get(item.name)
        table = Table(item.name, weight, item.embedding.padding_idx, *given)
        try:
            plan.tables.append(_plan_table(item, table, recipe, plan.fits, watch, before.get(item.name)))
        except BudgetError as error:
            if budget is None or len(found) == 1:
                raise
            message, _, hint = str(error).partition("hint: ")
            raise BudgetError(
                f"{message.rstrip('; ').rstrip()}\n{budget} bytes are the part of this table, {share:.1%} of the "
                f"{recipe.budget_bytes} for {len(found)} tables by size\nhint: {hint}; that is for this table alone"
            ) from None
    return plan


def _plan_table(
    item: FoundTable,
    table: Table,
    recipe: EmbeddingRecipe,
    fits: dict[str, CompressedEmbedding],
    watch: Watch | None,
    before: TablePlan | None,
) -> TablePlan:
    found: Found | None = None
    if before is not None and before.chosen:
        fitted = _fit_chosen(table, recipe, before.chosen, watch)
    elif recipe.method == "auto":
        task = task_for(table, recipe, watch)
        found = search(task)
        fitted = found.fitted or _fit_chosen(table, recipe, {**_limits(task), **found.asked}, watch)
    else:
        fitted = fit(table, recipe, watch)
    for parameter in fitted.module.parameters():
        parameter.requires_grad_(item.embedding.weight.requires_grad)
    error = table_error(table.weight, fitted.module, table.row_weights)
    fits[item.name] = fitted.module
    made = table_plan(table.weight, fitted, error, names=list(item.names), heads=list(item.heads))
    if found is not None:
        note_search(made, found, task)
    elif before is not None:
        copy_search(made, before)
    return made


def _fit_chosen(table: Table, recipe: EmbeddingRecipe, chosen: dict[str, Any], watch: Watch | None) -> Fitted:
    own = replace(recipe, **chosen)
    return fit(replace(table, budget_bytes=own.budget_bytes), own, watch)


def _limits(task: Task) -> dict[str, Any]:
    return {"keep_ratio": None, "budget_bytes": task.recipe.budget_bytes, "max_error": None}


def note_search(plan: TablePlan, found: Found, task: Task) -> None:
    """Write into the plan of a table what a search tried, what it chose and why."""
    plan.candidates = [asdict(row) for row in found.rows]
    plan.winner, plan.chosen = found.winner, {**_limits(task), **found.asked}
    plan.ended_early, plan.reason = found.ended_early, reason(found, task.recipe)


def copy_search(plan: TablePlan, other: TablePlan) -> None:
    """Write into the plan of a table what a search tried that was made for another plan of it."""
    for name in ("candidates", "winner", "chosen", "ended_early", "reason"):
        setattr(plan, name, getattr(other, name))


def table_plan(rows: RowSource, fitted: Fitted, error: TableError, *, names: list[str], heads: list[str]) -> TablePlan:
    """Return the entry of a plan for a table (n, d) that is fitted."""
    n, d = rows.shape
    return TablePlan(
        names=names,
        heads=heads,
        shape=[n, d],
        dtype=str(rows.dtype).removeprefix("torch."),
        sha256=tensor_sha256(rows),
        method=fitted.method,
        spec=fitted.module.spec(),
        parameters_before=n * d,
        parameters_after=fitted.module.parameters_stored,
        size_bytes_before=n * d * rows.dtype.itemsize,
        size_bytes_after=fitted.module.size_bytes,
        energy_lost=error.energy_lost,
        weighted_energy_lost=error.weighted,
        trials=[asdict(trial) for trial in fitted.trials],
        rivals=_rivals(rows),
        converged=fitted.converged,
        seconds=fitted.seconds,
    )


def _rivals(rows: RowSource) -> dict[str, dict[str, float]]:
    # what integers lose differs little between rows, so a part of a large table tells
    n = rows.shape[0]
    weight = rows[torch.arange(0, n, -(-n // _RIVAL_ROWS), device=rows.device)]
    rivals = {}
    for name in FORMATS:
        module = QuantizedEmbedding.from_table(weight, name)
        rivals[name] = {
            "size_bytes": module.size_bytes // len(weight) * n,
            "energy_lost": table_error(weight, module).energy_lost,
            "rows_measured": len(weight),
        }
    return rivals
