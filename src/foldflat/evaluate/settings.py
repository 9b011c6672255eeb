"""The settings of a training run on texts, and how the run went."""

import dataclasses
import math
from typing import Any

from foldflat.embedding.training import TRAINABLE
from foldflat.errors import RecipeError

__all__ = ["TrainingRun", "TrainingSettings"]

_SHORTEST = 8  # the special tokens of a pair are four in RoBERTa's way, and some text has to be left


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Hold the settings of one training run; a value out of range is a RecipeError.

    `epochs` counts passes over the data and may be a fraction; `max_steps`, where it is not -1, replaces it.
    `learning_rate` is AdamW's peak: it rises over the first `warmup_ratio` of the steps, then falls linearly
    to 0. `bf16` computes under bfloat16 autocast, the weights stay as they are. `max_length` is in tokens;
    `group_by_length` makes batches of texts of like length, which pads less.

    `hold_out` is the share of the training rows, 500 of them at most, that are not trained on but scored `checks`
    times, evenly over the run, and before it; the weights that score best by the task's metric are kept, the loss
    deciding among equals. Which rows depends on their number alone, so that runs one after another hold out the
    same. After `patience` checks in a row without a better score the run ends; 0 for never.

    With a teacher the loss is (1 - `teacher_weight`) of the labels' and `teacher_weight` of the distance from the
    teacher's answers, at `temperature`.

    `tables` says what is trained of tables of integer coefficients or trellis codes: "none"; "bases", with their
    scales; "all", with coefficients where they are integers. Tables of other kinds do not ask.
    """

    seed: int = 0
    epochs: float = 3.0
    max_steps: int = -1
    learning_rate: float = 5e-5
    batch_size: int = 32
    warmup_ratio: float = 0.06
    weight_decay: float = 0.01
    bf16: bool = False
    max_length: int = 128
    group_by_length: bool = False
    hold_out: float = 0.0
    checks: int = 5
    patience: int = 0
    teacher_weight: float = 0.5
    temperature: float = 2.0
    tables: str = "bases"

    def __post_init__(self) -> None:
        """Raise RecipeError for the first value out of range."""
        self._require("seed", 0 <= self.seed < 2**32, "a whole number from 0 to 2**32 - 1")
        self._require("epochs", 0 < self.epochs < math.inf, "above 0")
        self._require("max_steps", self.max_steps == -1 or self.max_steps >= 1, "at least 1, or -1 for `epochs`")
        self._require("learning_rate", 0 < self.learning_rate < math.inf, "above 0")
        self._require("batch_size", self.batch_size >= 1, "at least 1")
        self._require("warmup_ratio", 0 <= self.warmup_ratio < 1, "at least 0 and below 1")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0")
        self._require("max_length", self.max_length >= _SHORTEST, f"at least {_SHORTEST} tokens")
        self._require("hold_out", 0 <= self.hold_out <= 0.5, "from 0, nothing, to 0.5, half of the rows")
        self._require("checks", self.checks >= 1, "at least 1")
        self._require("patience", self.patience >= 0, "at least 1, or 0 to never stop early")
        self._require("patience", not self.patience or self.hold_out > 0, "it needs `hold_out`, for one 0.05")
        self._require("teacher_weight", 0 <= self.teacher_weight <= 1, "from 0 (labels only) to 1 (teacher only)")
        self._require("temperature", 0 < self.temperature < math.inf, "above 0")
        self._require("tables", self.tables in TRAINABLE, f"one of {', '.join(TRAINABLE)}")

    def _require(self, name: str, fulfilled: bool, limit: str) -> None:
        if not fulfilled:
            raise RecipeError(f"`{name}` is {getattr(self, name)}\nhint: {limit}")


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """Report a training run: optimiser steps, wall-clock seconds, mean loss over all steps.

    `tables` are the names of quantised tables with what was trained of them: bases, scales, coefficients.
    `held_out`, where rows were: their number, `metric`, every check's `step`, `value` and `loss`, and the `step`
    whose weights were kept.
    """

    steps: int
    seconds: float
    train_loss: float
    tables: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    held_out: dict[str, Any] | None = None
