"""Adapt transformers' Trainer: it finds compressed checkpoints again, and stops at a loss that is not finite.

Not imported by the package, because it needs transformers.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer
from transformers.trainer_callback import ProgressCallback

from foldflat.embedding.training import load_masters, masters_of
from foldflat.errors import DivergedError
from foldflat.evaluate.distillation import distillation_loss
from foldflat.model.hub.weights_file import holds_weights, load_weights

__all__ = ["ClassifierTrainer", "CompressedTrainer", "FiniteTrainer", "LossBar"]


_MASTERS = "tables.training.safetensors"


class CompressedTrainer(Trainer):
    """Train as Trainer does, also where a run of a compressed model resumes or goes back to its best checkpoint.

    Trainer looks for `model.safetensors`, which a compressed model never writes: it would refuse to resume, and with
    `load_best_model_at_end` keep the last weights with a warning only.

    Tables that are trained (`unfreeze`, before the trainer is made) are saved as freezing would store them. Checkpoints
    also hold what was trained before it is rounded, so that a resumed run ends as an uninterrupted one.
    """

    model: Any

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        _send_no_short_integers(self.model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if holds_weights(Path(resume_from_checkpoint)):
            _load(self.model if model is None else model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        folder = Path(self.state.best_model_checkpoint or "")
        if holds_weights(folder):
            _load(self.model, folder)
        else:
            super()._load_best_model()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as Trainer does; beside a checkpoint, which is an internal call, what tables train."""
        super().save_model(output_dir, _internal_call)
        masters = masters_of(self.model)
        if masters and _internal_call and self.args.should_save:
            save_file(masters, Path(str(output_dir or self.args.output_dir)) / _MASTERS)


def _send_no_short_integers(model: nn.Module) -> None:
    """Keep DistributedDataParallel from sending buffers of 16-bit integers, a type that gloo and NCCL do not know.

    They are indices of compressed tables, which every process has from its own copy of the model.
    """
    kept = [name for name, buffer in model.named_buffers() if buffer.dtype in (torch.int16, torch.uint16)]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, kept)


def _load(model: nn.Module, folder: Path) -> None:
    """Fill a model with the weights of a checkpoint; tables in training form go on exactly where they were."""
    file = folder / _MASTERS
    masters = load_file(file) if file.is_file() else {}
    load_weights(model, folder)
    load_masters(model, masters)


class FiniteTrainer(CompressedTrainer):
    """Raise DivergedError at the first loss that is NaN or infinite."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the loss of one batch after its backward pass; DivergedError where it is not finite."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss).all():
            raise DivergedError(
                f"the training loss became {loss.item():g} at step {self.state.global_step + 1} of "
                f"{self.state.max_steps}, at a peak learning rate of {self.args.learning_rate:g}; "
                "the model is not usable\nhint: a lower learning rate, more warm-up, or weights without NaN"
            )
        return loss


class ClassifierTrainer(FiniteTrainer):
    """Train a classifier on its labels, and on the answers of a teacher where it has one."""

    teacher: Any = None
    teacher_weight = 0.0
    temperature = 1.0

    def distil_from(self, teacher: nn.Module | None, weight: float, temperature: float) -> None:
        """Take a teacher, whose answers make up `weight` of the loss, to the device of this process; None for none."""
        self.teacher, self.teacher_weight, self.temperature = teacher, weight, temperature
        if teacher is not None:
            teacher.to(self.args.device).eval()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of one batch, and with `return_outputs` what the model gave."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.teacher is not None:
            texts = {name: values for name, values in inputs.items() if name != "labels"}
            with torch.no_grad(), self.accelerator.autocast():
                target = self.teacher(**texts).logits
            distance = distillation_loss(outputs["logits"].float(), target.float(), self.temperature)
            loss = loss.lerp(distance.to(loss.dtype), self.teacher_weight)
        return (loss, outputs) if return_outputs else loss


class LossBar(ProgressCallback):
    """Show steps, time left and the latest loss on stderr; standard output stays free for results."""

    def on_log(self, *positional: Any, logs: Any = None, **named: Any) -> None:  # noqa: ARG002 (Trainer's)
        """Put the loss beside the bar where Trainer would print a line."""
        bar: Any = self.training_bar
        if bar is not None and "loss" in (logs or {}):
            bar.set_postfix(loss=f"{logs['loss']:.3f}")
