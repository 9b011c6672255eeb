"""The smallest compressed classifier whose risk can be promised to be below a limit."""

import dataclasses
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch

from foldflat.checkpoint import check_target
from foldflat.embedding.plan import EmbeddingPlan
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.embedding.weights import TokenCounts
from foldflat.errors import RecipeError, UnsupportedModelError
from foldflat.evaluate import glue_task, load_tokenizer
from foldflat.evaluate.loading import require_labels
from foldflat.model import hub
from foldflat.model.manifest import file_sha256
from foldflat.model.probe import find_tables
from foldflat.model.size import state_sha256, tensor_sha256
from foldflat.pipeline import Result, as_module, compress
from foldflat.workflow.certificates.files import keep_certificate
from foldflat.workflow.certificates.promise import Promise
from foldflat.workflow.certificates.searching import CertifiedSearch, Ladder, search
from foldflat.workflow.certificates.testing import Original
from foldflat.workflow.certificates.texts import TaskData
from foldflat.workflow.folders import refuse_compressed, save_folder
from foldflat.workflow.sources import Source, open_source
from foldflat.workflow.weighting import TextSample, add_counts, count_text, save_counts, weighted_by_text

__all__ = ["compress_certified", "embedding_recipes"]

_KEPT = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
_BYTES = tuple(
    map(Fraction, ("3/8", "1/4", "3/16", "1/8", "1/12", "1/16", "1/24", "1/32", "1/48", "1/64", "1/96", "1/128"))
)


def compress_certified(
    model: str,
    target: str | os.PathLike[str],
    recipe: EmbeddingRecipe,
    data: TaskData,
    promise: Promise,
    *,
    plan_examples: int = 2000,
    text: TextSample | None = None,
    overwrite: bool = False,
    progress: bool = True,
    watch: Callable[[str], None] | None = None,
) -> CertifiedSearch:
    """Compress a classifier as far as can be promised, and write a complete folder with the certificate.

    Without row weights the tokens of the rows to plan with are counted for them; texts to certify with are never
    counted. Nothing is written where no candidate can be promised.

    Args:
        model: folder or hub name of a classifier of the task.
        target: folder to make.
        recipe: how to store the tables; its size, if it has one, is the largest that is tried.
        data: what is certified on, and what is planned with.
        promise: what is to be shown.
        plan_examples: rows to plan with.
        text: what to count tokens in, for row weights.
        overwrite: replace a target that exists.
        progress: show bars.
        watch: called with a line of progress.

    Raises:
        RecipeError: the recipe says how large the error may be.
        DataError, UnsupportedModelError: no classifier of the task; see `search`.
    """
    check_target(target, overwrite=overwrite)
    sample = _sample(text, recipe, data)
    recipe = weighted_by_text(recipe, sample)
    source = open_source(model)
    refuse_compressed(source)
    module = as_module(source.model).eval()
    if not type(module).__name__.endswith("ForSequenceClassification"):
        raise UnsupportedModelError(
            f"{model} is a {type(module).__name__}, no classifier\nhint: `foldflat finetune` makes one for {data.task}"
        )
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    require_labels(module.config, glue_task(data.task), model)
    tokenizer = load_tokenizer(model)
    planning, examples = (data.examples(split, tokenizer) for split in (data.plan_split, data.split))
    counts = count_text(source.text, sample, watch=watch, without=data.texts(data.split))
    ladder = _ladder(source, recipe, counts, watch)
    found = search(
        Original(model, module, state_sha256(module.state_dict())),
        ladder,
        planning,
        examples,
        promise,
        plan_examples=plan_examples,
        seed=recipe.seed,
        progress=progress,
        watch=watch,
    )
    if found.chosen is not None:
        result = found.chosen[1]
        made = found.report["certificate"]
        save_folder(result, target, source, overwrite=overwrite, extra=lambda folder: keep_certificate(folder, made))
        save_counts(sample, counts, result.plan)
    return found


def _sample(text: TextSample | None, recipe: EmbeddingRecipe, data: TaskData) -> TextSample:
    """Return what tokens are counted in: what was given, else the rows to plan with."""
    if text is not None and text.sources:
        return text
    counted = recipe.row_weights is None or (isinstance(recipe.row_weights, str) and recipe.row_weights == "auto")
    if not counted:
        return TextSample()
    return TextSample((f"{data.data}:{data.task}:{data.plan_split}",))


def _ladder(
    source: Source,
    recipe: EmbeddingRecipe,
    counts: TokenCounts | None,
    watch: Callable[[str], None] | None,
) -> Ladder:
    module = as_module(source.model)
    tables = find_tables(module, recipe.include, recipe.exclude, default_names=hub.input_embedding_names(module))
    dense = sum(table.embedding.weight.numel() * table.embedding.weight.element_size() for table in tables)
    recipes = embedding_recipes(recipe, dense)

    def make(name: str) -> Result:
        # of its lines the first half: an interrupt ends the whole, not the search of one candidate
        said = None if watch is None else lambda line: watch(f"{name}: {line.partition('; Ctrl-C')[0]}")
        result = compress(module, recipes[name], counts, watch=said)
        if isinstance(result.plan, EmbeddingPlan) and any(table.ended_early for table in result.plan.tables):
            raise KeyboardInterrupt
        add_counts(result.report, counts)
        return result

    weights = "" if counts is None else tensor_sha256(counts.counts)
    described = {"recipe": recipe.to_dict(), "row_weights": weights or _weights_sha256(recipe), "dense": dense}
    return Ladder(list(recipes), make, described)


def _weights_sha256(recipe: EmbeddingRecipe) -> str | None:
    """Return what identifies the row weights of a recipe that names a file, or holds numbers; None for none."""
    weights = recipe.row_weights
    if weights is None or (isinstance(weights, str) and weights == "auto"):
        return None
    if isinstance(weights, str | os.PathLike):
        file = Path(weights).expanduser()
        return file_sha256(file) if file.is_file() else None  # that it is missing is said where it is read
    return tensor_sha256(torch.as_tensor(weights))


def embedding_recipes(recipe: EmbeddingRecipe, dense: int) -> dict[str, EmbeddingRecipe]:
    """Return ever smaller recipes by name: stored bytes where the method minds them, else parameters.

    Args:
        recipe: its size, if it has one, is the largest.
        dense: bytes of all tables before.

    Raises:
        RecipeError: it has an error in place of a size.
    """
    if recipe.max_error is not None:
        raise RecipeError(
            f"`max_error` is {recipe.max_error}, but the size is what is searched\nhint: leave it out, or give the "
            "largest size to try"
        )
    if recipe.method in ("int8", "int4"):
        return {recipe.method: recipe}
    if recipe.budget_bytes is None and recipe.method != "auto":
        most = recipe.keep_ratio or _KEPT[0]
        kept = [most, *(ratio for ratio in _KEPT if ratio < most)]
        return {f"keep {ratio:g}": dataclasses.replace(recipe, keep_ratio=ratio) for ratio in kept}
    shares = [int(dense * share) for share in _BYTES]
    most = recipe.budget_bytes or (shares[0] if recipe.keep_ratio is None else int(dense * recipe.keep_ratio))
    sizes = [most, *(size for size in shares if 0 < size < most)]
    return {f"{size:,} bytes": dataclasses.replace(recipe, budget_bytes=size, keep_ratio=None) for size in sizes}
