"""Score rows that are held out of training now and then, and go back to the weights that scored best.

Not imported by the package, because it needs transformers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers.trainer_callback import TrainerCallback

from foldflat.errors import DivergedError
from foldflat.evaluate.glue import glue_task
from foldflat.evaluate.metrics import glue_metrics
from foldflat.evaluate.settings import TrainingSettings

__all__ = ["BestWeights", "held_out_score"]

Score = tuple[float, float]
"""The task's metric and the loss."""


class BestWeights(TrainerCallback):
    """Score a model `checks` times in a run, and before it; remember its best weights; stop when it gets no better.

    Args:
        model: what is trained, not wrapped.
        score: returns the metric, of which more is better, and the loss, which decides among equals; the same in every
            process of a distributed run, so that all decide alike.
        metric, rows: name of the metric and number of rows, for the report.
        settings: its `checks`, spread evenly over the run with the last at its end, and `patience`.
    """

    def __init__(
        self, model: nn.Module, score: Callable[[], Score], *, metric: str, rows: int, settings: TrainingSettings
    ) -> None:
        self._model, self._score = model, score
        self._checks, self._patience = settings.checks, settings.patience
        self._about = {"metric": metric, "rows": rows}
        self._left: list[int] = []
        self._weights: dict[str, Tensor] = {}
        self._best = 0
        self._found: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002 (Trainer's)
        """Score what training begins with."""
        ends = {round(state.max_steps * check / self._checks) for check in range(1, self._checks + 1)}
        self._left = sorted(ends - {0})
        self._check(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Score where a check is due."""
        if self._left and state.global_step >= self._left[0]:
            del self._left[0]
            self._check(state.global_step)
            control.should_training_stop |= 0 < self._patience <= len(self._found) - 1 - self._best

    def report(self) -> dict[str, Any]:
        """Return metric, number of rows, every check, and the step after which the weights were best."""
        return {**self._about, "checks": self._found, "step": self._found[self._best]["step"]}

    def restore(self) -> None:
        """Give the model the weights that scored best."""
        if self._best < len(self._found) - 1:
            self._model.load_state_dict(self._weights)

    def _check(self, step: int) -> None:
        value, loss = self._score()
        self._found.append({"step": step, "value": value, "loss": loss})
        best = self._found[self._best]
        if len(self._found) == 1 or (value, -loss) > (best["value"], -best["loss"]):
            self._best = len(self._found) - 1
            self._weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}


def held_out_score(task: str, logits: NDArray[Any], labels: NDArray[Any]) -> Score:
    """Return the headline metric of a task and the loss: cross-entropy, or the squared error of a regression.

    Args:
        task: one of the nine GLUE tasks.
        logits: (n, labels of the task).
        labels: (n,).

    Raises:
        DivergedError: logits that are not finite.
    """
    if not np.isfinite(logits).all():
        raise DivergedError(
            "training gave NaN or infinity on the rows that are held out; the model is not usable\n"
            "hint: a lower learning rate"
        )
    glue = glue_task(task)
    scores = torch.from_numpy(np.asarray(logits, dtype=np.float64))
    truth = torch.from_numpy(np.asarray(labels))
    loss = functional.cross_entropy(scores, truth) if glue.labels else functional.mse_loss(scores[:, 0], truth.double())
    return glue_metrics(task, logits, labels)[glue.headline], float(loss)
