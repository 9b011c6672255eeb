"""Check that a learning rate is chosen by what short runs reach on rows that are held out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_model
from torch import nn

from foldflat.errors import DivergedError, RecipeError
from foldflat.evaluate import TrainingSettings, choose_learning_rate, load_split

TRIAL = TrainingSettings(max_steps=30, batch_size=16, hold_out=0.25, checks=2)


@pytest.fixture(scope="module")
def mnli(glue_folder: Callable[..., Path]) -> Path:
    """Return a folder for the task of three labels, as many as the tiny classifiers have."""
    return glue_folder("mnli", n=96)


@pytest.fixture
def rows(mnli: Path, tokenizer: Any) -> Any:
    """Return the tokenised training rows of `mnli`."""
    return load_split(mnli, "mnli", "train", tokenizer=tokenizer)


def make() -> nn.Module:
    """Return the model that every trial begins with."""
    model: nn.Module = tiny_model("distilbert", head="classifier")
    return model


def test_the_rate_that_learns_is_chosen(rows: Any, tokenizer: Any) -> None:
    """Of one that changes nothing, one that learns and one that overflows, the second; the last one has an error."""
    chosen = choose_learning_rate(make, rows, [1e-9, 3e-3, 1e30], task="mnli", tokenizer=tokenizer, settings=TRIAL)
    assert chosen.learning_rate == 3e-3
    still, learned, failed = chosen.trials
    assert learned["value"] > still["value"]
    assert 0 < learned["step"] <= 30
    assert failed["learning_rate"] == 1e30
    assert "a lower learning rate" in failed["error"]


def test_what_cannot_be_chosen_from_is_said(rows: Any, tokenizer: Any) -> None:
    """No rate, no rows to score, no rate that ends."""

    def fails(kind: type[Exception], message: str, rates: list[float], settings: TrainingSettings = TRIAL) -> None:
        with pytest.raises(kind, match=message):
            choose_learning_rate(make, rows, rates, task="mnli", tokenizer=tokenizer, settings=settings)

    fails(RecipeError, "no learning rate is given", [])
    fails(RecipeError, "no rows are held out", [1e-3], TrainingSettings(max_steps=2))
    fails(DivergedError, r"no learning rate can be trained with; with 1e\+30: ", [1e30])
