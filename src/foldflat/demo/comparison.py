"""Every method on the same model: what it stores, what it loses, what one epoch of fine-tuning gives back."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foldflat.demo.classifier import Bench, accuracy
from foldflat.demo.settings import DemoSettings
from foldflat.embedding import EmbeddingRecipe
from foldflat.evaluate import TrainingSettings, train_classifier
from foldflat.pipeline import Result, compress

__all__ = ["UNCOMPRESSED", "Row", "compare", "recipes"]

UNCOMPRESSED = "uncompressed"


@dataclass(frozen=True)
class Row:
    """Hold the figures of one method; parameters and bytes are those of the table alone.

    `keep_ratio` is what was asked, None where the method has one size; `energy_lost` is that of the table
    before fine-tuning. Accuracies are shares of the validation passages.
    """

    method: str
    keep_ratio: float | None
    n_subspaces: int
    parameters: int
    size_bytes: int
    energy_lost: float
    accuracy: float
    accuracy_finetuned: float
    compress_seconds: float
    finetune_seconds: float


def recipes(settings: DemoSettings, seed: int) -> list[EmbeddingRecipe]:
    """Return what is compared: svd and subspaces at every keep ratio, then int8 and int4 rows."""
    low_rank = [
        EmbeddingRecipe(keep_ratio=keep, method=method, seed=seed)
        for keep in settings.keep_ratios
        for method in ("svd", "subspaces")
    ]
    return [*low_rank, *(EmbeddingRecipe(method=method, seed=seed) for method in ("int8", "int4"))]


def compare(
    bench: Bench, settings: DemoSettings, seed: int, *, watch: Callable[[str], None]
) -> tuple[list[Row], Result, Row]:
    """Measure the model as it is and by every recipe, each before and after the same fine-tuning.

    Returns the rows, and of the subspaces that with the best accuracy after fine-tuning (the smaller of
    equals) with its row. `watch` is called before each with what comes next.
    """
    watch(UNCOMPRESSED)
    rows = [_uncompressed(bench, settings, seed)]
    best: tuple[Result, Row] | None = None
    for recipe in recipes(settings, seed):
        watch(recipe.method if recipe.keep_ratio is None else f"{recipe.method} at {recipe.keep_ratio:.0%}")
        result = compress(bench.model, recipe)
        row = _compressed(result, bench, settings, seed)
        rows.append(row)
        if row.method == "subspaces" and (best is None or _rank(row) > _rank(best[1])):
            best = result, row
    assert best is not None  # `keep_ratios` is never empty
    return rows, *best


def _rank(row: Row) -> tuple[float, int]:
    return row.accuracy_finetuned, -row.size_bytes


def _uncompressed(bench: Bench, settings: DemoSettings, seed: int) -> Row:
    table = bench.model.get_input_embeddings().weight
    before, after, seconds = _accuracies(copy.deepcopy(bench.model), bench, settings, seed)
    return Row(
        method=UNCOMPRESSED,
        keep_ratio=1.0,
        n_subspaces=0,
        parameters=table.numel(),
        size_bytes=table.numel() * table.element_size(),
        energy_lost=0.0,
        accuracy=before,
        accuracy_finetuned=after,
        compress_seconds=0.0,
        finetune_seconds=seconds,
    )


def _compressed(result: Result, bench: Bench, settings: DemoSettings, seed: int) -> Row:
    table = result.report["tables"][0]
    before, after, seconds = _accuracies(result.model, bench, settings, seed)
    return Row(
        method=table["method"],
        keep_ratio=result.report["recipe"]["keep_ratio"],
        n_subspaces=table["n_subspaces"],
        parameters=result.report["parameters_after"],
        size_bytes=result.report["size_bytes_after"],
        energy_lost=table["energy_lost"],
        accuracy=before,
        accuracy_finetuned=after,
        compress_seconds=result.report["seconds"],
        finetune_seconds=seconds,
    )


def _accuracies(model: Any, bench: Bench, settings: DemoSettings, seed: int) -> tuple[float, float, float]:
    """Fine-tune `model` in place; return its accuracy before and after, and the seconds that it took."""
    training = TrainingSettings(
        seed=seed,
        epochs=settings.finetune_epochs,
        learning_rate=settings.finetune_learning_rate,
        batch_size=settings.batch_size,
        max_length=settings.max_length,
    )
    before = accuracy(model, bench.validation, bench.tokenizer)
    start = time.perf_counter()
    train_classifier(model, bench.train, tokenizer=bench.tokenizer, settings=training, progress=False)
    seconds = time.perf_counter() - start
    return before, accuracy(model, bench.validation, bench.tokenizer), seconds
