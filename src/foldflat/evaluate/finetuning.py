"""Fine-tune a model on a GLUE task and score it."""

import dataclasses
import os
from typing import Any

from torch import nn

from foldflat.evaluate.data import load_split
from foldflat.evaluate.glue import glue_task
from foldflat.evaluate.loading import load_classifier, load_tokenizer, require_labels
from foldflat.evaluate.scoring import require_tokenizer, score_classifier
from foldflat.evaluate.settings import TrainingRun, TrainingSettings
from foldflat.evaluate.training import train_classifier

__all__ = ["FinetuneResult", "finetune_classifier"]


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
    """Hold the trained model in eval mode, its tokenizer, its scores on validation, and how the run went."""

    model: Any
    tokenizer: Any
    metrics: dict[str, Any]
    run: TrainingRun


def finetune_classifier(
    model_or_path: nn.Module | str | os.PathLike[str],
    task: str,
    data: str | os.PathLike[str],
    *,
    settings: TrainingSettings | None = None,
    train_split: str = "train",
    progress: bool = True,
    max_train_examples: int | None = None,
    tokenizer: Any = None,
    teacher: nn.Module | None = None,
) -> FinetuneResult:
    """Train a classifier on one split of a GLUE task and score it on validation (see `score_classifier`).

    A folder or hub name is loaded first; a model without a classification head, such as a masked language
    model, gets a new one that depends on `settings.seed` alone. A model object is trained in place and needs
    its `tokenizer`. `max_train_examples` keeps the first so many rows. `settings=None`: the defaults. `teacher` is
    a classifier of the same task to distil from, moved to the model's device.

    Raises what `load_classifier`, `load_split` and `train_classifier` raise, before training where possible.
    """
    glue = glue_task(task)
    settings = settings or TrainingSettings()
    if isinstance(model_or_path, nn.Module):
        model = model_or_path
        require_labels(model.config, glue, f"the {type(model).__name__}")
        require_tokenizer(tokenizer)
    else:
        tokenizer = tokenizer or load_tokenizer(model_or_path)
        model = load_classifier(model_or_path, glue, tokenizer=tokenizer, new_head=True, seed=settings.seed)
    reading: dict[str, Any] = {"tokenizer": tokenizer, "max_length": settings.max_length}
    train = load_split(data, task, train_split, max_examples=max_train_examples, **reading)
    if teacher is not None:
        teacher.to(next(model.parameters()).device)
    run = train_classifier(
        model, train, tokenizer=tokenizer, settings=settings, task=task, teacher=teacher, progress=progress
    )
    return FinetuneResult(model, tokenizer, score_classifier(model, task, data, **reading), run)
