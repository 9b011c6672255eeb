"""Train an image network of any class in place, with distillation and resuming, transformers' Trainer underneath."""

import contextlib
import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foldflat.errors import DataError, RecipeError
from foldflat.evaluate.checkpoints import claim_folder, last_checkpoint, steps_done
from foldflat.evaluate.images import ImageDataset
from foldflat.evaluate.isolation import attributes_restored, quiet_transformers, random_state_restored
from foldflat.evaluate.optional import require
from foldflat.evaluate.settings import TrainingRun
from foldflat.evaluate.training import require_finite, trainer_arguments
from foldflat.model.size import state_sha256

__all__ = ["RetrainingSettings", "retrain"]


@dataclasses.dataclass(frozen=True)
class RetrainingSettings:
    """Hold the settings of one training run on images; a value out of range is a RecipeError.

    `epochs` counts passes over the data and may be a fraction; `max_steps`, where it is not -1, replaces it.
    `learning_rate` is the peak of SGD with Nesterov momentum 0.9: it rises over the first `warmup_ratio` of the
    steps and falls as half a cosine to 0 (one cycle; 0 is the plain cosine). With a teacher the loss is
    (1 - `teacher_weight`) cross-entropy + `teacher_weight` T^2 KL(teacher || model) at `temperature` T.
    `augment` flips and shifts the images. `bf16` computes under bfloat16 autocast, the weights stay as they
    are; `channels_last` lays the images out so, which is faster on most machines, but breaks a model that
    calls `view` on what a convolution gives.
    """

    seed: int = 0
    epochs: float = 10.0
    max_steps: int = -1
    learning_rate: float = 0.1
    batch_size: int = 128
    warmup_ratio: float = 0.2
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    teacher_weight: float = 0.9
    temperature: float = 4.0
    augment: bool = True
    bf16: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        """Raise RecipeError for the first value out of range."""
        self._require("seed", 0 <= self.seed < 2**32, "a whole number from 0 to 2**32 - 1")
        self._require("epochs", 0 < self.epochs < math.inf, "above 0")
        self._require("max_steps", self.max_steps == -1 or self.max_steps >= 1, "at least 1, or -1 for `epochs`")
        self._require("learning_rate", 0 < self.learning_rate < math.inf, "above 0")
        self._require("batch_size", self.batch_size >= 1, "at least 1")
        self._require("warmup_ratio", 0 <= self.warmup_ratio < 1, "at least 0 and below 1")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")
        self._require("teacher_weight", 0 <= self.teacher_weight <= 1, "from 0 (labels only) to 1 (teacher only)")
        self._require("temperature", 0 < self.temperature < math.inf, "above 0")

    def _require(self, name: str, fulfilled: bool, limit: str) -> None:
        if not fulfilled:
            raise RecipeError(f"`{name}` is {getattr(self, name)}\nhint: {limit}")


def retrain(
    model: nn.Module,
    dataset: ImageDataset,
    settings: RetrainingSettings | None = None,
    *,
    teacher: nn.Module | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    checkpoint_steps: int = 200,
    progress: bool = True,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> TrainingRun:
    """Train `model`, a network of any class from images to logits, in place on a labelled data set.

    The model stays on its device, keeps its class and attributes, and is left in eval mode; parameters that do
    not require a gradient stay as they are. The same settings, model and machine give the same weights.

    Args:
        model: called with float32 images (n, 3, height, width); logits (n, classes), alone or as `.logits`.
        dataset: of `load_images`, the training split.
        settings: None for the defaults.
        teacher: the network before pruning, to distil from; it computes in eval mode and is not changed.
        checkpoints: a folder for the checkpoints of this run. A run that is interrupted leaves the model as it
            was; the same call again continues from the last checkpoint and ends as it would have without the
            interruption, and after the end gives the trained weights at once. The folder is the caller's to delete.
        checkpoint_steps: write one every so many steps, and at the end; the last two are kept.
        progress: show a bar with the time left on stderr.
        on_progress: called every ten steps with a dict of `step`, `steps`, `loss` and `learning_rate`.

    Returns:
        The steps of the whole run; the seconds of this call, and the mean loss over its steps (NaN for none).

    Raises:
        DataError: no images; images or logits of the wrong shape; a loss or weight that becomes NaN or infinite,
            after which the model is not usable.
        CheckpointError: the folder holds the checkpoints of another run, or damaged ones.
        RecipeError: a setting is out of range, the teacher is the model itself, or bfloat16 is missing.
    """
    require("accelerate", "hf")
    settings = settings or RetrainingSettings()
    _check(model, dataset, teacher, checkpoint_steps)
    device, start = next(model.parameters()).device, time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.callback(_at_rest, model, device)
        if checkpoints is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = Path(checkpoints).expanduser()
            claim_folder(folder, _identity(model, dataset, settings, teacher))
            stack.enter_context(_restored_when_interrupted(model))
        stack.enter_context(_nothing_left_on(model, teacher))
        arguments = _arguments(folder, device, settings, len(dataset), checkpoint_steps if checkpoints else None)
        trainer = _trainer(model, dataset, arguments, settings, teacher)
        _show(trainer, progress, on_progress)
        steps, loss = _run(trainer, last_checkpoint(folder))
    require_finite(model)
    return TrainingRun(steps, time.perf_counter() - start, loss)


def _check(model: nn.Module, dataset: ImageDataset, teacher: nn.Module | None, checkpoint_steps: int) -> None:
    if len(dataset) == 0:
        raise DataError("the data set has no images")
    if teacher is model:
        raise RecipeError("the teacher is the model itself\nhint: a copy from before pruning, `copy.deepcopy(model)`")
    if checkpoint_steps < 1:
        raise RecipeError(f"`checkpoint_steps` is {checkpoint_steps}\nhint: at least 1")


def _run(trainer: Any, checkpoint: str | None) -> tuple[int, float]:
    """Train, from a checkpoint where there is one; return the steps of the whole run and the mean loss."""
    done = steps_done(Path(checkpoint)) if checkpoint else None
    if checkpoint and done and done[0] >= done[1]:  # Trainer would take a step more
        trainer.restore(checkpoint)
        return done[0], math.nan
    steps, loss, _ = trainer.train(resume_from_checkpoint=checkpoint)
    return steps, loss


def _identity(
    model: nn.Module, dataset: ImageDataset, settings: RetrainingSettings, teacher: nn.Module | None
) -> dict[str, Any]:
    """Return what has to be the same for a run to go on."""
    return {
        **dataclasses.asdict(settings),
        "model": state_sha256(model.state_dict()),
        "teacher": None if teacher is None else state_sha256(teacher.state_dict()),
        "data": state_sha256({"images": dataset.images, "labels": dataset.labels}),
        "preprocessing": repr(dataset.preprocessing),
    }


def _at_rest(model: nn.Module, device: torch.device) -> None:
    model.zero_grad()
    model.to(device).eval()


@contextlib.contextmanager
def _restored_when_interrupted(model: nn.Module) -> Iterator[None]:
    """Put the weights back that a run began with when it is interrupted: it continues from its checkpoints."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    except BaseException:
        model.load_state_dict(before)
        raise


@contextlib.contextmanager
def _nothing_left_on(model: nn.Module, teacher: nn.Module | None) -> Iterator[None]:
    """Undo what training does beside it: seeds, verbosity, wrapped forward, the teacher's mode."""
    was_training = teacher is not None and teacher.training
    objects = [item for item in (model, getattr(model, "config", None)) if item is not None]
    with random_state_restored(), quiet_transformers(), attributes_restored(*objects):
        if teacher is not None:
            teacher.eval()
        try:
            yield
        finally:
            if teacher is not None:
                teacher.train(was_training)


def _trainer(
    model: nn.Module, dataset: ImageDataset, arguments: Any, settings: RetrainingSettings, teacher: nn.Module | None
) -> Any:
    from foldflat.evaluate.image_trainer import ImageTrainer

    return ImageTrainer(
        settings=settings,
        teacher=teacher,
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=_as_it_is,
    )


def _show(trainer: Any, progress: bool, on_progress: Callable[[dict[str, Any]], None] | None) -> None:
    from transformers.trainer_callback import PrinterCallback

    from foldflat.evaluate.image_trainer import ProgressCalls
    from foldflat.evaluate.trainer import LossBar

    trainer.remove_callback(PrinterCallback)
    if progress:
        trainer.add_callback(LossBar)
    if on_progress is not None:
        trainer.add_callback(ProgressCalls(on_progress))


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    """Collate nothing: an ImageDataset hands out whole batches."""
    return batch


def _arguments(
    folder: Path, device: torch.device, settings: RetrainingSettings, images: int, checkpoint_steps: int | None
) -> Any:
    return trainer_arguments(
        device,
        settings,
        output_dir=str(folder),
        per_device_train_batch_size=min(settings.batch_size, images),
        dataloader_drop_last=True,  # a last batch of one image has no variance to normalise by
        remove_unused_columns=False,
        max_grad_norm=0.0,
        save_strategy="no" if checkpoint_steps is None else "steps",
        save_steps=checkpoint_steps or 500,
        save_total_limit=2,
    )
