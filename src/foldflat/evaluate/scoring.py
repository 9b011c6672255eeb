"""Score a classifier on a GLUE task."""

import os
from typing import Any

import numpy as np
from torch import nn

from foldflat.errors import DataError
from foldflat.evaluate.data import load_split
from foldflat.evaluate.glue import GlueTask, glue_task, resolve_split
from foldflat.evaluate.loading import load_classifier, load_tokenizer, require_labels
from foldflat.evaluate.metrics import beats_majority, glue_metrics, majority_baseline
from foldflat.evaluate.prediction import predict_logits

__all__ = ["score_classifier"]


def score_classifier(
    model_or_path: nn.Module | str | os.PathLike[str],
    task: str,
    data: str | os.PathLike[str],
    *,
    split: str = "validation",
    batch_size: int = 64,
    max_length: int = 128,
    max_examples: int | None = None,
    tokenizer: Any = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Score a model, a folder or a hub name on one split of a GLUE task; the result is ready for JSON.

    Keys: `task`, `split` (as the data set calls it), `examples`, `metrics` (the official ones), `headline`
    (`name` and `value`), and for classifications `accuracy`, `majority_baseline` (the accuracy of the
    commonest label of this split) and `beats_majority` (by two standard errors), all None for a regression.
    A model needs its `tokenizer`; a folder brings its own. For `data`, `max_length` and `max_examples` see
    `load_split`.

    Raises DataError for a model without a tokenizer, without a trained head or with another number of labels,
    and what `load_split` raises.
    """
    glue = glue_task(task)
    if isinstance(model_or_path, nn.Module):
        model = model_or_path
        require_labels(model.config, glue, f"the {type(model).__name__}")
        require_tokenizer(tokenizer)
    else:
        tokenizer = tokenizer or load_tokenizer(model_or_path)
        model = load_classifier(model_or_path, glue, tokenizer=tokenizer, new_head=False)
    dataset = load_split(data, task, split, tokenizer=tokenizer, max_length=max_length, max_examples=max_examples)
    logits = predict_logits(model, dataset, tokenizer=tokenizer, batch_size=batch_size, progress=progress)
    return _scores(glue, split, logits, np.asarray(dataset["labels"][:]))


def require_tokenizer(tokenizer: Any) -> None:
    """Raise DataError where a model was given without its tokenizer."""
    if tokenizer is None:
        raise DataError("a model was given without its tokenizer\nhint: pass tokenizer=..., or the model's folder")


def _scores(glue: GlueTask, split: str, logits: Any, labels: Any) -> dict[str, Any]:
    metrics = glue_metrics(glue.name, logits, labels)
    accuracy = float((logits.argmax(axis=1) == labels).mean()) if glue.labels else None
    return {
        "task": glue.name,
        "split": resolve_split(glue.name, split),
        "examples": len(labels),
        "metrics": metrics,
        "headline": {"name": glue.headline, "value": metrics[glue.headline]},
        "accuracy": accuracy,
        "majority_baseline": None if accuracy is None else majority_baseline(labels),
        "beats_majority": None if accuracy is None else beats_majority(accuracy, labels),
    }
