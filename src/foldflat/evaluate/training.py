"""Train a sequence classifier in place, with transformers' Trainer underneath."""

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from foldflat.embedding.training import TRAINABLE, training_tables
from foldflat.errors import DataError, RecipeError
from foldflat.evaluate.isolation import attributes_restored, quiet_transformers, random_state_restored
from foldflat.evaluate.optional import require
from foldflat.evaluate.prediction import padding_collator, require_fitting

__all__ = ["TrainingRun", "TrainingSettings", "require_finite", "train_classifier", "trainer_arguments"]

_STEPS_PER_LOSS = 10  # how often the bar shows a new loss
_SHORTEST = 8  # the special tokens of a pair are four in RoBERTa's way, and some text has to be left


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Hold the settings of one training run; a value out of range is a RecipeError.

    `epochs` counts passes over the data and may be a fraction; `max_steps`, where it is not -1, replaces it.
    `learning_rate` is AdamW's peak: it rises over the first `warmup_ratio` of the steps, then falls linearly
    to 0. `bf16` computes under bfloat16 autocast, the weights stay as they are. `max_length` is in tokens.
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
        self._require("tables", self.tables in TRAINABLE, f"one of {', '.join(TRAINABLE)}")

    def _require(self, name: str, fulfilled: bool, limit: str) -> None:
        if not fulfilled:
            raise RecipeError(f"`{name}` is {getattr(self, name)}\nhint: {limit}")


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """Report a training run: optimiser steps, wall-clock seconds, mean loss over all steps.

    `tables` are the names of quantised tables with what was trained of them: bases, scales, coefficients.
    """

    steps: int
    seconds: float
    train_loss: float
    tables: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def train_classifier(
    model: nn.Module, train_dataset: Any, *, tokenizer: Any, settings: TrainingSettings, progress: bool = True
) -> TrainingRun:
    """Train `model`, a transformers sequence classifier, on a tokenised data set with `labels`; in place.

    Batches are shuffled and padded to their longest text. The model stays on its device and is left in eval
    mode; parameters that do not require a gradient stay as they are. Quantised tables are unfrozen for the run
    and stored again after it (`settings.tables`). The same settings, model and machine give the same weights.
    Nothing is left on disk; `progress` shows a bar with the time left on stderr.

    Raises DataError for no rows, texts beyond the model's positions, a tokenizer without a padding token, or
    a loss that becomes NaN or infinite (the model is then unusable); RecipeError where bfloat16 is missing.
    """
    require("accelerate", "hf")
    collator = padding_collator(tokenizer)
    require_fitting(model, train_dataset)
    if "labels" not in train_dataset.column_names:
        raise DataError(f"training needs a column `labels`; found {', '.join(train_dataset.column_names)}")
    device = next(model.parameters()).device
    try:
        with (
            tempfile.TemporaryDirectory() as scratch,
            _nothing_left_on(model),
            training_tables(model, settings.tables) as tables,
        ):
            trainer = _trainer(model, train_dataset, collator, _arguments(scratch, device, settings, progress))
            start = time.perf_counter()
            steps, loss, _ = trainer.train()
            seconds = time.perf_counter() - start
            require_finite(model)
    finally:
        model.zero_grad()
        model.to(device).eval()
    return TrainingRun(steps, seconds, loss, tables)


@contextlib.contextmanager
def _nothing_left_on(model: nn.Module) -> Iterator[None]:
    """Undo what Trainer does beside training: seeds, verbosity, wrapped forward, `config.use_cache`."""
    with random_state_restored(), quiet_transformers(), attributes_restored(model, model.config):
        yield


def _trainer(model: nn.Module, dataset: Any, collator: Any, arguments: Any) -> Any:
    from transformers.trainer_callback import PrinterCallback

    from foldflat.evaluate.trainer import FiniteTrainer, LossBar

    trainer = FiniteTrainer(model=model, args=arguments, train_dataset=dataset, data_collator=collator)
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
    """Raise DataError for the first parameter that holds NaN or infinity after training."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise DataError(
                f"training left NaN or infinity in {name!r}; the model is not usable\nhint: a lower learning rate"
            )
