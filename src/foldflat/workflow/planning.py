"""Plans for models on disk: of a large table in a file from a sample of its rows, of all else from the whole."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foldflat.cluster.source import RowSource
from foldflat.cluster.streaming import JUDGE_ROWS, SAMPLE_ROWS
from foldflat.embedding.base import check_finite
from foldflat.embedding.fitting import Table, Watch
from foldflat.embedding.matching import check_fits_rows
from foldflat.embedding.plan import EmbeddingPlan, TablePlan, copy_search, note_search
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.embedding.search import drawn_sample, search, task_for
from foldflat.embedding.weights import TokenCounts, weights_and_counts
from foldflat.errors import RecipeError
from foldflat.model.size import tensor_sha256
from foldflat.pipeline import Result, plan_report
from foldflat.report.planning import picture

__all__ = ["check_outputs", "chosen_recipe", "is_sampled", "note_plan", "plan_rows", "write_picture"]


def is_sampled(rows: RowSource | None, recipe: EmbeddingRecipe | EmbeddingPlan) -> bool:
    """Return whether candidates for a table are measured on a sample of its rows, which then are not read whole."""
    if rows is None or rows.shape[0] <= SAMPLE_ROWS + JUDGE_ROWS:
        return False
    if isinstance(recipe, EmbeddingPlan):
        return bool(recipe.tables[0].chosen)
    return recipe.method == "auto" and recipe.max_error is None


def plan_rows(
    rows: RowSource, recipe: EmbeddingRecipe, counts: TokenCounts | None = None, *, watch: Watch | None = None
) -> EmbeddingPlan:
    """Return the plan for a large table (n, d): what candidates take and lose is foreseen, and nothing is fitted.

    Args:
        rows: the table.
        recipe: what is asked.
        counts: of tokens, for row weights "auto".
        watch: called with a line of progress.

    Raises:
        BudgetError, DataError: see `foldflat.embedding.search`.
    """
    n, d = rows.shape
    weights, counted = weights_and_counts(recipe.row_weights, n, name="table", calibration=counts)
    table = Table("", torch.empty(n, d, dtype=rows.dtype, device="meta"), None, weights, recipe.budget_bytes, counted)
    sample = drawn_sample(rows, weights, recipe.seed)
    check_finite(sample.rows, "")
    task = task_for(table, recipe, watch, sample)
    found = search(task)
    preview = found.preview
    made = TablePlan(
        names=[""],
        heads=[],
        shape=[n, d],
        dtype=str(rows.dtype).removeprefix("torch."),
        sha256=tensor_sha256(rows),
        method="mixed" if found.asked.get("coefficients") == "mixed" else found.asked["method"],
        spec={},
        parameters_before=n * d,
        parameters_after=preview.parameters,
        size_bytes_before=n * d * rows.dtype.itemsize,
        size_bytes_after=preview.size_bytes,
        energy_lost=preview.weighted if preview.energy_lost is None else preview.energy_lost,
        weighted_energy_lost=preview.weighted,
        seconds=sum(row.seconds for row in found.rows),
    )
    note_search(made, found, task)
    return EmbeddingPlan(recipe.to_dict(), [made])


def chosen_recipe(plan: EmbeddingPlan, rows: RowSource) -> tuple[EmbeddingRecipe, list[str]]:
    """Return the recipe of what a plan chose for a table, and warnings.

    Raises:
        PlanMismatchError: the plan is for another shape.
    """
    warnings = check_fits_rows(plan, rows)
    return replace(plan.recipe_object(), **plan.tables[0].chosen), warnings


def note_plan(result: Result, plan: EmbeddingPlan, warnings: list[str]) -> None:
    """Write into a result what the plan that it follows was asked and found."""
    assert isinstance(result.plan, EmbeddingPlan)
    result.plan.recipe = plan.recipe
    copy_search(result.plan.tables[0], plan.tables[0])
    report = plan_report(result.plan, [*result.report["warnings"], *warnings])
    # what was chosen and what was asked may leave out the same
    report["warnings"] = list(dict.fromkeys(report["warnings"]))
    result.report.update(report)


def check_outputs(recipe: EmbeddingRecipe, picture_file: Path | None, files: Iterable[Path | None]) -> None:
    """Refuse before a search what would only fail after it.

    Raises:
        RecipeError: a picture without a search; a file in a folder that does not exist.
    """
    if picture_file is not None and recipe.method != "auto":
        raise RecipeError("a picture shows what a search tried; hint: use --budget, or --method auto")
    for file in (picture_file, *files):
        if file is not None and not file.absolute().parent.is_dir():
            raise RecipeError(f"{file} is to be written, but folder {file.parent} does not exist; hint: make it first")


def write_picture(report: dict[str, Any], file: Path) -> None:
    """Draw what a search found for the largest table."""
    table = max(report["tables"], key=lambda item: item["size_bytes_before"])
    file.write_text(picture(table), encoding="utf-8")
