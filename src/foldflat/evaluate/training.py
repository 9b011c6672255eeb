"""Train a sequence classifier in place, with transformers' Trainer underneath."""

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from foldflat.embedding.training import training_tables
from foldflat.errors import DataError, DivergedError, RecipeError
from foldflat.evaluate.glue import glue_task
from foldflat.evaluate.isolation import attributes_restored, quiet_transformers, random_state_restored
from foldflat.evaluate.optional import require
from foldflat.evaluate.prediction import padding_collator, predict_logits, require_fitting
from foldflat.evaluate.settings import TrainingRun, TrainingSettings
from foldflat.randomness import torch_generator

__all__ = ["require_finite", "train_classifier", "trainer_arguments"]

_STEPS_PER_LOSS = 10  # how often the bar shows a new loss
_MOST_HELD_OUT = 500


def train_classifier(
    model: nn.Module,
    train_dataset: Any,
    *,
    tokenizer: Any,
    settings: TrainingSettings,
    task: str | None = None,
    teacher: nn.Module | None = None,
    progress: bool = True,
) -> TrainingRun:
    """Train `model`, a transformers sequence classifier, on a tokenised data set with `labels`; in place.

    Batches are shuffled and padded to their longest text. The model stays on its device and is left in eval
    mode; parameters that do not require a gradient stay as they are. Quantised tables are unfrozen for the run
    and stored again after it (`settings.tables`). The same settings, model and machine give the same weights.
    Nothing is left on disk; `progress` shows a bar with the time left on stderr.

    Args:
        model: trained in place.
        train_dataset: rows of `load_split`.
        tokenizer: pads batches.
        settings: of the run.
        task: whose metric rows that are held out are scored by; needed for `settings.hold_out`.
        teacher: a classifier of the same labels on the same device, to distil from; it computes in eval mode and is
            not changed.
        progress: show the bar.

    Raises DataError for no rows, too few to hold some out, texts beyond the model's positions, a tokenizer without a
    padding token, or a teacher of other labels; DivergedError for a loss that becomes NaN or infinite (the model is
    then unusable); RecipeError where bfloat16 is missing, the teacher is the model, or rows are to be held out and no
    task is given.
    """
    require("accelerate", "hf")
    collator = padding_collator(tokenizer)
    for one in (model, teacher):
        if one is not None:
            require_fitting(one, train_dataset)
    if "labels" not in train_dataset.column_names:
        raise DataError(f"training needs a column `labels`; found {', '.join(train_dataset.column_names)}")
    _check_teacher(model, teacher)
    rows, held_out = _split(train_dataset, settings, task)
    device = next(model.parameters()).device
    try:
        with (
            tempfile.TemporaryDirectory() as scratch,
            _nothing_left_on(model, teacher),
            training_tables(model, settings.tables) as tables,
        ):
            trainer = _trainer(model, rows, collator, _arguments(scratch, device, settings, progress))
            trainer.distil_from(teacher, settings.teacher_weight, settings.temperature)
            best = None if held_out is None else _best_weights(model, held_out, tokenizer, settings, str(task))
            if best is not None:
                trainer.add_callback(best)
            start = time.perf_counter()
            steps, loss, _ = trainer.train()
            seconds = time.perf_counter() - start
            require_finite(model)
            if best is not None:
                best.restore()
    finally:
        model.zero_grad()
        model.to(device).eval()
        if teacher is not None:
            teacher.to(device)
    return TrainingRun(steps, seconds, loss, tables, None if best is None else best.report())


def _check_teacher(model: nn.Module, teacher: nn.Module | None) -> None:
    if teacher is model:
        raise RecipeError("the teacher is the model itself\nhint: the model from before compression, or a copy")
    own, theirs = (getattr(getattr(one, "config", None), "num_labels", None) for one in (model, teacher))
    if teacher is not None and own != theirs:
        raise DataError(
            f"the teacher predicts {theirs} labels, the model {own}\nhint: a teacher fine-tuned on the same task"
        )


def _split(dataset: Any, settings: TrainingSettings, task: str | None) -> tuple[Any, Any]:
    """Return the rows to train on and those that are held out, None where all are trained on."""
    if not settings.hold_out:
        return dataset, None
    if task is None:
        raise RecipeError("rows are to be held out, which takes a metric\nhint: give `task`")
    count = min(_MOST_HELD_OUT, int(settings.hold_out * len(dataset)))
    if count < 1:
        least = math.ceil(1e4 / len(dataset)) / 1e4  # rounded up, for a little less is none again
        more = f"`hold_out` of at least {least:g}, more rows" if len(dataset) > 1 else "more rows"
        raise DataError(
            f"{settings.hold_out:g} of {len(dataset)} training rows are none to hold out\n"
            f"hint: {more}, or 0 to train on all"
        )
    order = torch.randperm(len(dataset), generator=torch_generator(0))
    return dataset.select(order[count:].sort().values.tolist()), dataset.select(order[:count].sort().values.tolist())


def _best_weights(model: nn.Module, rows: Any, tokenizer: Any, settings: TrainingSettings, task: str) -> Any:
    from accelerate.utils import broadcast_object_list

    from foldflat.evaluate.held_out import BestWeights, held_out_score

    labels = np.asarray(rows["labels"][:])
    device = next(model.parameters()).device.type

    def score() -> tuple[float, float]:
        with torch.autocast(device, torch.bfloat16, enabled=settings.bf16):
            logits = predict_logits(model, rows, tokenizer=tokenizer)
        # what differs in a last bit would end the run of one process, and the others would wait for it
        value, loss = broadcast_object_list(list(held_out_score(task, logits, labels)))
        return value, loss

    return BestWeights(model, score, metric=glue_task(task).headline, rows=len(rows), settings=settings)


@contextlib.contextmanager
def _nothing_left_on(model: nn.Module, teacher: nn.Module | None) -> Iterator[None]:
    """Undo what Trainer does beside training: seeds, verbosity, wrapped forward, `config.use_cache`, modes."""
    was_training = teacher is not None and teacher.training
    with random_state_restored(), quiet_transformers(), attributes_restored(model, model.config):
        try:
            yield
        finally:
            if teacher is not None:
                teacher.train(was_training)


def _trainer(model: nn.Module, dataset: Any, collator: Any, arguments: Any) -> Any:
    from transformers.trainer_callback import PrinterCallback

    from foldflat.evaluate.trainer import ClassifierTrainer, LossBar

    trainer = ClassifierTrainer(model=model, args=arguments, train_dataset=dataset, data_collator=collator)
    trainer.remove_callback(PrinterCallback)
    if arguments.logging_strategy != "no":
        trainer.add_callback(LossBar)
    return trainer


def _arguments(scratch: str, device: torch.device, settings: TrainingSettings, progress: bool) -> Any:
    return trainer_arguments(
        device,
        settings,
        output_dir=scratch,
        per_device_train_batch_size=settings.batch_size,
        warmup_steps=settings.warmup_ratio,  # below 1 it is a share of the steps
        weight_decay=settings.weight_decay,
        train_sampling_strategy="group_by_length" if settings.group_by_length else "random",
        save_strategy="no",
        logging_strategy="steps" if progress else "no",
    )


def trainer_arguments(device: torch.device, settings: Any, **own: Any) -> Any:
    """Return Trainer's arguments: what every run has in common, from its settings, and its own.

    Raises RecipeError where Trainer refuses them on this device.
    """
    from transformers import TrainingArguments

    try:
        arguments = TrainingArguments(
            seed=settings.seed,
            num_train_epochs=settings.epochs,
            max_steps=settings.max_steps,
            learning_rate=settings.learning_rate,
            bf16=settings.bf16,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda",
            logging_steps=_STEPS_PER_LOSS,
            logging_nan_inf_filter=False,
            log_level="warning",
            disable_tqdm=True,
            report_to="none",
            **own,
        )
    except ValueError as error:
        raise RecipeError(f"Trainer refuses these settings on {device}: {error}") from error
    if arguments.n_gpu > 1:  # DataParallel would multiply the batch by the number of devices
        arguments._n_gpu = 1
    return arguments


def require_finite(model: nn.Module) -> None:
    """Raise DivergedError for the first parameter that holds NaN or infinity after training."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise DivergedError(
                f"training left NaN or infinity in {name!r}; the model is not usable\nhint: a lower learning rate"
            )
