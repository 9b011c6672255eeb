"""Adapt transformers' Trainer to image networks: augmentation, distillation, SGD, checkpoints of plain modules.

Not imported by the package, because it needs transformers.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers.trainer_callback import TrainerCallback

from foldflat.errors import CheckpointError
from foldflat.evaluate.distillation import distillation_loss
from foldflat.evaluate.images import ImageDataset, logits_of
from foldflat.evaluate.trainer import FiniteTrainer
from foldflat.randomness import torch_generator

__all__ = ["WEIGHTS", "ImageTrainer", "ProgressCalls", "augmented"]

WEIGHTS = "weights.safetensors"
_MOMENTUM = 0.9
_PADDING_SHARE = 8  # a crop moves by up to an eighth of the side: 4 of 32 pixels, as in He et al. 2016


class ImageTrainer(FiniteTrainer):
    """Train on batches of an `ImageDataset` with SGD; `settings` are RetrainingSettings.

    What a batch looks like depends on seed and step alone, so that a resumed run sees what the first one would
    have seen. Checkpoints hold the plain state dict, whatever the model's class.
    """

    optimizer: Any

    def __init__(self, *, settings: Any, teacher: nn.Module | None, **trainer: Any) -> None:
        super().__init__(**trainer)
        self.settings: Any = settings
        self.teacher = teacher
        dataset: ImageDataset = trainer["train_dataset"]
        self.preprocessing, self.classes = dataset.preprocessing, len(dataset.classes)

    def create_optimizer(self, model: Any = None) -> Any:  # noqa: ARG002 (Trainer's)
        """Return SGD with Nesterov momentum; weight decay spares biases and norms, which have one dimension."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.settings.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=self.settings.learning_rate, momentum=_MOMENTUM, nesterov=True)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002 (Trainer's)
        """Return the one-cycle schedule: a linear rise over `warmup_ratio` of the steps, then half a cosine to 0."""
        rise: int = round(self.settings.warmup_ratio * num_training_steps)

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / (rise + 1)
            return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / max(1, num_training_steps - rise))

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        return self.lr_scheduler

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        """Return the loss of one batch: cross-entropy, mixed with the distance from the teacher where there is one."""
        settings, images = self.settings, inputs["pixel_values"]
        if settings.augment:
            images = augmented(images, settings.seed + 1_000_003 * self.state.global_step)
        images = self.preprocessing.normalise(images)
        if settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = logits_of(model, images, self.classes)
        loss = functional.cross_entropy(logits, inputs["labels"], label_smoothing=settings.label_smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad(), self.accelerator.autocast():
            target = logits_of(self.teacher, images, self.classes)
        distance = distillation_loss(logits, target, settings.temperature)
        return loss.lerp(distance, settings.teacher_weight)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or "")
        folder.mkdir(parents=True, exist_ok=True)
        state = self.model.state_dict() if state_dict is None else state_dict
        # clones: tied tensors share memory, which safetensors refuses
        save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, folder / WEIGHTS)

    def restore(self, checkpoint: str) -> None:
        """Fill the model with the weights of a checkpoint; CheckpointError where they are damaged."""
        self._load_from_checkpoint(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        file = Path(resume_from_checkpoint) / WEIGHTS
        try:
            (self.model if model is None else model).load_state_dict(load_file(file))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{file} cannot be resumed from: {error}\nhint: delete this checkpoint") from error


class ProgressCalls(TrainerCallback):
    """Hand each logged step to a function, as `step`, `steps`, `loss` and `learning_rate`."""

    def __init__(self, call: Callable[[dict[str, Any]], None]) -> None:
        self.call = call

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Report the mean loss since the last report."""
        if "loss" in (logs or {}):
            chosen = {key: logs[key] for key in ("loss", "learning_rate")}
            self.call({"step": state.global_step, "steps": state.max_steps, **chosen})


def augmented(images: Tensor, seed: int) -> Tensor:
    """Flip every second image or so, and move each by up to an eighth of its side, black where nothing was.

    Args:
        images: uint8 (n, channels, height, width), on any device.
        seed: the same seed gives the same images on every device.
    """
    n, channels, height, width = images.shape
    down, right = height // _PADDING_SHARE, width // _PADDING_SHARE
    generator = torch_generator(seed)
    rows = torch.arange(height) + torch.randint(2 * down + 1, (n, 1), generator=generator)
    columns = torch.arange(width) + torch.randint(2 * right + 1, (n, 1), generator=generator)
    flipped = torch.rand((n, 1), generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    padded = functional.pad(images, (right, right, down, down))
    index = (
        torch.arange(n).view(n, 1, 1, 1),
        torch.arange(channels).view(1, channels, 1, 1),
        rows.view(n, 1, height, 1),
        columns.view(n, 1, 1, width),
    )
    return padded[tuple(part.to(images.device) for part in index)]
