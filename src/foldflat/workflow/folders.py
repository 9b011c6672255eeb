"""Whole folders: compress, densify; each written beside and renamed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

import foldflat
from foldflat.checkpoint import check_target, save_model_files, writing_folder
from foldflat.cluster.distributed import Alone, Team
from foldflat.cluster.source import RowSource
from foldflat.embedding.fitting import Watch
from foldflat.embedding.plan import EmbeddingPlan
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.embedding.weights import TokenCounts
from foldflat.errors import RecipeError, UnsupportedModelError
from foldflat.model.hub.reading import copy_companions, front_matter
from foldflat.model.manifest import write_manifest
from foldflat.pipeline import Result, apply, compress, densify_model, plan, plan_report
from foldflat.report import markdown
from foldflat.workflow.planning import chosen_recipe, is_sampled, note_plan, plan_rows
from foldflat.workflow.sources import Source, open_source
from foldflat.workflow.table_files import open_rows
from foldflat.workflow.tables import compress_rows, is_streamed
from foldflat.workflow.weighting import TextSample, add_counts, count_text, save_counts, weighted_by_text

__all__ = ["compress_folder", "densify_folder", "plan_source", "refuse_compressed", "save_folder"]


def compress_folder(
    source: str | Source,
    target: str | os.PathLike[str],
    recipe: EmbeddingRecipe | EmbeddingPlan,
    *,
    overwrite: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    team: Team | None = None,
    text: TextSample | None = None,
    watch: Watch | None = None,
) -> Result | None:
    """Compress a model on disk to a complete folder: weights, tokenizer, other modules, model card.

    A large table in a file is read chunk by chunk and never held whole; several processes may share it. Only rank 0
    writes and returns a result.

    Args:
        source: a folder, hub name or table file, or one that is open already.
        target: folder to make.
        recipe: what is asked, or a plan to follow.
        overwrite: replace a target that exists.
        checkpoint: file that keeps the state of a large table's fit, for a run that is cut off; default beside
            `target`, deleted at the end.
        team: the processes that share a table; default this one alone.
        text: what to count tokens in, for row weights.
        watch: called with a line of progress.
    """
    check_target(target, overwrite=overwrite)
    text = TextSample() if text is None else text
    recipe = weighted_by_text(recipe, text)
    team = Alone() if team is None else team
    rows = open_rows(source) if isinstance(source, str) else None
    counts = count_text(source if isinstance(source, str) else source.text, text, watch=watch)
    planned: tuple[EmbeddingPlan, list[str]] | None = None
    if rows is not None and is_sampled(rows, recipe):
        followed = _searched(rows, recipe, counts, team, watch)
        recipe, warnings = chosen_recipe(followed, rows)
        planned = followed, warnings

    def save(result: Result, origin: Source) -> None:
        if planned is not None:
            note_plan(result, *planned)
        save_folder(result, target, origin, overwrite=overwrite)
        save_counts(text, counts, result.plan)

    if rows is not None and isinstance(recipe, EmbeddingRecipe) and is_streamed(rows, recipe, team):
        table = Source(str(source), "table", torch.empty(rows.shape, device="meta"))
        return compress_rows(
            rows,
            recipe,
            lambda result: save(result, table),
            target,
            team=team,
            checkpoint=checkpoint,
            calibration=counts,
            watch=watch,
        )
    if team.size > 1:
        raise RecipeError(
            f"{team.size} processes cannot share {source}; hint: they share a table in a file, by a recipe"
        )
    opened = open_source(source) if isinstance(source, str) else source
    refuse_compressed(opened)
    if isinstance(recipe, EmbeddingPlan):
        result = apply(opened.model, recipe, counts)
    else:
        result = compress(opened.model, recipe, counts, watch=watch)
    add_counts(result.report, counts)
    save(result, opened)
    return result


def _searched(
    rows: RowSource,
    recipe: EmbeddingRecipe | EmbeddingPlan,
    counts: TokenCounts | None,
    team: Team,
    watch: Watch | None,
) -> EmbeddingPlan:
    """Return the plan for a large table: the given one, or what a search on a sample chooses."""
    if isinstance(recipe, EmbeddingPlan):
        return recipe
    if team.size > 1:
        raise RecipeError(
            f"{team.size} processes cannot share a search; hint: `foldflat plan` by one, and follow with --plan, "
            "or name a --method"
        )
    return plan_rows(rows, recipe, counts, watch=watch)


def plan_source(
    source: str, recipe: EmbeddingRecipe, *, text: TextSample | None = None, watch: Watch | None = None
) -> tuple[EmbeddingPlan, dict[str, Any]]:
    """Return the plan for a model on disk, and what it predicts; of a large table a search sees a sample.

    Args: `text` as in `compress_folder`.
    """
    text = TextSample() if text is None else text
    recipe = weighted_by_text(recipe, text)
    rows = open_rows(source) if not Path(source).is_dir() else None
    if rows is not None and is_sampled(rows, recipe):
        counts = count_text(source, text, watch=watch)
        made = plan_rows(rows, recipe, counts, watch=watch)
        seen = max(row["rows_measured"] for row in made.tables[0].candidates)
        warnings = [f"sizes and losses are foreseen from {seen:,} of {rows.shape[0]:,} rows"]
    else:
        opened = open_source(source)
        refuse_compressed(opened)
        counts, warnings = count_text(source, text, watch=watch), []
        made = plan(opened.model, recipe, counts, watch=watch)
    report = plan_report(made, warnings)
    add_counts(report, counts)
    save_counts(text, counts, made)
    if text.counts_file is not None:
        # so that the plan can be followed without the text
        made.recipe["row_weights"] = os.fspath(text.counts_file)
    return made, report


def save_folder(
    result: Result,
    target: str | os.PathLike[str],
    source: Source,
    *,
    overwrite: bool = False,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write a result with everything that belongs to its source; `extra` adds files to the unfinished folder."""
    with writing_folder(target, overwrite=overwrite) as folder:
        inner = folder / source.inner
        inner.mkdir(parents=True, exist_ok=True)
        manifest = save_model_files(result, inner) | {"inner": source.inner}
        if source.kind != "table":
            copy_companions(source.text, folder)
        (folder / "README.md").write_text(_card(result, source, Path(target).name), encoding="utf-8")
        if extra is not None:
            extra(folder)
        write_manifest(folder, manifest)


def densify_folder(source: str, target: str | os.PathLike[str], *, overwrite: bool = False) -> nn.Module:
    """Turn a folder that foldflat wrote into one that needs no foldflat, with the same function.

    Raises:
        UnsupportedModelError: the folder holds nothing compressed.
    """
    check_target(target, overwrite=overwrite)
    opened = open_source(source)
    if opened.kind != "foldflat":
        raise UnsupportedModelError(f"{source} holds no compressed table; hint: it needs no densifying")
    assert isinstance(opened.model, nn.Module)
    dense = densify_model(opened.model)
    with writing_folder(target, overwrite=overwrite) as folder:
        inner = folder / opened.inner
        inner.mkdir(parents=True, exist_ok=True)
        if hasattr(dense, "save_pretrained"):
            dense.save_pretrained(inner)  # type: ignore[operator]
            copy_companions(source, folder)
        else:
            save_file(dict(dense.state_dict()), folder / "model.safetensors")
    return dense


def refuse_compressed(source: Source) -> None:
    """Raise UnsupportedModelError for a model that foldflat compressed before."""
    if source.kind == "foldflat":
        raise UnsupportedModelError(
            f"{source.text} is compressed already; hint: compress the original, or `foldflat densify` it first"
        )


def _card(result: Result, source: Source, title: str) -> str:
    body = markdown(result.report, title=title, loading=_loading(source, result), version=foldflat.__version__)
    if source.kind == "table":
        return body
    return front_matter(str(source.folder), tags=["foldflat", "compressed"]) + body


def _loading(source: Source, result: Result) -> str:
    if source.kind == "sentence-transformers":
        line = "from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer(FOLDER)"
    elif source.kind == "transformers":
        name = type(result.model).__name__
        line = f"from transformers import {name}\n\nmodel = {name}.from_pretrained(FOLDER)"
    else:
        line = "\ntable = foldflat.load(FOLDER)\nrows = table(ids)"
    needs = "" if source.kind == "table" else "[hf]"
    return (
        f'Needs `pip install "foldflat{needs}"`. Without `import foldflat` loading fails with an error; '
        f"`foldflat densify` writes a folder that needs no foldflat.\n\n```python\nimport foldflat\n{line}\n```"
    )
