"""Choose a learning rate by short runs, scored on rows that are held out of training."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from foldflat.errors import DivergedError, RecipeError
from foldflat.evaluate.settings import TrainingSettings
from foldflat.evaluate.training import train_classifier

__all__ = ["LearningRateChoice", "choose_learning_rate"]


@dataclasses.dataclass(frozen=True)
class LearningRateChoice:
    """Hold the learning rate of the trial that scored best, and of every trial `learning_rate` with its result.

    A trial has the `value` of the task's metric, the `loss` and the `step` of its best check, or, where it failed, an
    `error`.
    """

    learning_rate: float
    trials: list[dict[str, Any]]


def choose_learning_rate(
    make: Callable[[], nn.Module],
    train_dataset: Any,
    learning_rates: Sequence[float],
    *,
    task: str,
    tokenizer: Any,
    settings: TrainingSettings,
    teacher: nn.Module | None = None,
) -> LearningRateChoice:
    """Train a new model with each learning rate; choose by the held-out rows' metric, among equals by their loss.

    Every trial has the same weights to begin with, the same batches and the same number of steps, which `settings`
    give; warm-up and decay are those of a run of that length.

    Args:
        make: returns the model to begin with, each time anew.
        train_dataset: rows of `load_split`.
        learning_rates: at least one.
        task: whose metric decides.
        tokenizer: pads batches.
        settings: of a trial; they hold rows out.
        teacher: see `train_classifier`.

    Raises:
        RecipeError: no learning rate, or no rows are held out.
        DivergedError: every trial's loss became NaN or infinite; and what `train_classifier` raises.
    """
    if not learning_rates or not settings.hold_out:
        what = "no learning rate is given" if not learning_rates else "no rows are held out"
        raise RecipeError(f"{what} to choose a learning rate\nhint: some of them, and `hold_out` of 0.05")
    trials = []
    for learning_rate in learning_rates:
        own = dataclasses.replace(settings, learning_rate=learning_rate)
        trials.append({"learning_rate": learning_rate, **_trial(make(), train_dataset, task, tokenizer, own, teacher)})
    ended = [trial for trial in trials if "error" not in trial]
    if not ended:
        raise DivergedError(f"no learning rate can be trained with; with {learning_rates[0]:g}: {trials[0]['error']}")
    best = max(ended, key=lambda trial: (trial["value"], -trial["loss"]))
    return LearningRateChoice(best["learning_rate"], trials)


def _trial(
    model: nn.Module, rows: Any, task: str, tokenizer: Any, settings: TrainingSettings, teacher: nn.Module | None
) -> dict[str, Any]:
    try:
        run = train_classifier(
            model, rows, tokenizer=tokenizer, settings=settings, task=task, teacher=teacher, progress=False
        )
    except DivergedError as error:
        return {"error": str(error)}
    assert run.held_out is not None
    kept: dict[str, Any] = next(check for check in run.held_out["checks"] if check["step"] == run.held_out["step"])
    return kept
