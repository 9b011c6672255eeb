"""Adapt transformers' Trainer: it stops at a loss that is not finite, and its bar prints no lines.

Imported inside functions only, because it needs transformers.
"""

from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_callback import ProgressCallback

from foldflat.errors import DataError

__all__ = ["FiniteTrainer", "LossBar"]


class FiniteTrainer(Trainer):
    """Train as Trainer does, but raise DataError at the first loss that is NaN or infinite."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the loss of one batch after its backward pass; DataError where it is not finite."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss).all():
            raise DataError(
                f"the training loss became {loss.item():g} at step {self.state.global_step + 1} of "
                f"{self.state.max_steps}, at a peak learning rate of {self.args.learning_rate:g}; "
                "the model is not usable\nhint: a lower learning rate, more warm-up, or weights without NaN"
            )
        return loss


class LossBar(ProgressCallback):
    """Show steps, time left and the latest loss on stderr; standard output stays free for results."""

    def on_log(self, *positional: Any, logs: Any = None, **named: Any) -> None:  # noqa: ARG002 (Trainer's)
        """Put the loss beside the bar where Trainer would print a line."""
        bar: Any = self.training_bar
        if bar is not None and "loss" in (logs or {}):
            bar.set_postfix(loss=f"{logs['loss']:.3f}")
