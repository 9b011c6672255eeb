"""Check that rows that are held out are not trained on, decide which weights are kept, and end a run."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import tiny_model

import foldflat
from foldflat.errors import DataError, DivergedError, RecipeError
from foldflat.evaluate import TrainingSettings, load_split, predict_logits, train_classifier
from foldflat.evaluate.held_out import BestWeights, held_out_score
from foldflat.evaluate.training import _split
from foldflat.randomness import torch_generator

SETTINGS = TrainingSettings(max_steps=4, batch_size=8, learning_rate=1e-3, hold_out=0.25, checks=4)


@pytest.fixture(scope="module")
def mnli(glue_folder: Callable[..., Path]) -> Path:
    """Return a folder for the task of three labels, as many as the tiny classifiers have."""
    return glue_folder("mnli", n=24)


@pytest.fixture
def rows(mnli: Path, tokenizer: Any) -> Any:
    """Return the tokenised training rows of `mnli`."""
    return load_split(mnli, "mnli", "train", tokenizer=tokenizer)


def follow(scores: list[tuple[float, float]], patience: int = 0) -> tuple[int, Any, int]:
    """Run a callback over made-up scores; return the steps taken, its report, and the step of the restored weights."""
    model = torch.nn.Linear(1, 1)
    left = iter(scores)
    settings = TrainingSettings(hold_out=0.1, checks=len(scores) - 1, patience=patience)
    best = BestWeights(model, lambda: next(left), metric="accuracy", rows=9, settings=settings)
    state = SimpleNamespace(max_steps=10 * (len(scores) - 1), global_step=0)
    control = SimpleNamespace(should_training_stop=False)
    with torch.no_grad():
        model.bias.fill_(0)
        best.on_train_begin(None, state, control)
        while state.global_step < state.max_steps and not control.should_training_stop:
            state.global_step += 1
            model.bias.fill_(state.global_step)
            best.on_step_end(None, state, control)
    best.restore()
    return state.global_step, best.report(), int(model.bias.item())


def test_the_weights_that_score_best_are_kept() -> None:
    """The metric decides, among equals the loss, among equals of both the earlier; the start is one of them."""
    steps, report, kept = follow([(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.7, 0.8), (0.6, 0.1)])
    assert (steps, report["step"], kept) == (40, 20, 20)
    assert [check["step"] for check in report["checks"]] == [0, 10, 20, 30, 40]
    assert (report["metric"], report["rows"]) == ("accuracy", 9)
    assert follow([(0.9, 1.0), (0.5, 0.1), (0.9, 1.0)])[2] == 0


def test_a_run_ends_after_so_many_checks_without_a_better_score() -> None:
    """Two in a row, not two in all; without patience never."""
    scores = [(0.5, 1.0), (0.4, 1.0), (0.6, 1.0), (0.5, 1.0), (0.5, 1.0), (0.9, 1.0)]
    assert follow(scores, patience=2)[0] == 40
    assert follow(scores, patience=2)[2] == 20
    assert follow(scores)[0] == 50


def test_the_score_is_the_headline_metric_and_the_loss() -> None:
    """By hand: two of three right; cross-entropy of (ln 3, 0) is ln 4/3 or ln 4. stsb: a mean square."""
    logits = np.array([[np.log(3), 0], [0, np.log(3)], [np.log(3), 0]])
    value, loss = held_out_score("sst2", logits, np.array([0, 1, 1]))
    assert value == pytest.approx(2 / 3)
    assert loss == pytest.approx((2 * np.log(4 / 3) + np.log(4)) / 3)
    assert held_out_score("stsb", np.array([[1.0], [3.0]]), np.array([0.0, 5.0]))[1] == pytest.approx(2.5)
    with pytest.raises(DivergedError, match="NaN or infinity on the rows that are held out"):
        held_out_score("sst2", np.array([[np.nan, 0.0]]), np.array([0]))


def test_the_rows_held_out_depend_on_their_number_alone(rows: Any, tokenizer: Any) -> None:
    """They are no training rows, the same whatever the seed and share of earlier runs, and 500 at most."""
    train, held_out = _split(rows, SETTINGS, "mnli")
    assert (len(train), len(held_out)) == (18, 6)
    texts = {str(ids) for ids in held_out["input_ids"]}
    assert not texts & {str(ids) for ids in train["input_ids"]}
    other = TrainingSettings(seed=3, hold_out=0.25)
    assert _split(rows, other, "mnli")[1]["input_ids"][:] == held_out["input_ids"][:]
    many = rows.select([0] * 20_000)
    assert len(_split(many, other, "mnli")[1]) == 500
    with pytest.raises(
        DataError, match=r"0\.01 of 24 training rows are none to hold out\nhint: `hold_out` of at least"
    ):
        _split(rows, TrainingSettings(hold_out=0.01), "mnli")
    with pytest.raises(RecipeError, match="rows are to be held out, which takes a metric"):
        train_classifier(tiny_model("distilbert", head="classifier"), rows, tokenizer=tokenizer, settings=SETTINGS)


@pytest.mark.parametrize("n", [2, 3, 7, 24])
def test_the_share_that_is_hinted_at_holds_a_row_out(n: int, rows: Any) -> None:
    """A third of three rows, written as 0.33, is none."""
    few = rows.select(range(n))
    with pytest.raises(DataError) as error:
        _split(few, TrainingSettings(hold_out=1e-3), "mnli")
    (least,) = re.findall(r"at least ([0-9.]+),", str(error.value))
    assert len(_split(few, TrainingSettings(hold_out=float(least)), "mnli")[1]) == 1


@pytest.mark.parametrize("tables", ["dense", "all"])
def test_a_run_goes_back_to_its_best_check(tables: str, rows: Any, tokenizer: Any) -> None:
    """At a rate that ruins the model the start is kept, to the bit, integer tables in training form included."""
    model = tiny_model("distilbert", head="classifier")
    if tables == "all":
        recipe = foldflat.EmbeddingRecipe(n_subspaces=2, coefficients="int4")
        model = foldflat.compress(model, recipe).model
    # the rows that are held out have the labels that the model gives, the others teach it wrong ones
    answers = predict_logits(model, rows, tokenizer=tokenizer).argmax(1)
    held_out = torch.randperm(len(rows), generator=torch_generator(0))[:6].numpy()
    labels = (answers + 1) % 3
    labels[held_out] = answers[held_out]
    rows = rows.remove_columns("labels").add_column("labels", labels.tolist())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = TrainingSettings(
        max_steps=20, batch_size=8, learning_rate=1e-2, warmup_ratio=0, hold_out=0.25, checks=2, tables="all"
    )
    run = train_classifier(model, rows, tokenizer=tokenizer, settings=settings, task="mnli", progress=False)
    assert run.held_out is not None
    assert run.held_out["step"] == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_checks_leave_training_as_it_is(rows: Any, tokenizer: Any) -> None:
    """With one check or four the last weights are the same bits: scoring draws nothing and trains nothing."""

    def ends(checks: int) -> dict[str, Any]:
        model = tiny_model("distilbert", head="classifier")
        settings = TrainingSettings(max_steps=4, batch_size=8, learning_rate=1e-3, hold_out=0.25, checks=checks)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BestWeights, "restore", lambda _: None)
            train_classifier(model, rows, tokenizer=tokenizer, settings=settings, task="mnli", progress=False)
        return model.state_dict()

    one, four = ends(1), ends(4)
    assert all(torch.equal(one[name], four[name]) for name in one)


def test_all_processes_decide_by_the_scores_of_the_first(
    rows: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that found another last bit would end its run alone, and the others would wait for its gradients."""
    from accelerate import utils

    monkeypatch.setattr(utils, "broadcast_object_list", lambda own: [2.0, own[1]])
    model = tiny_model("distilbert", head="classifier")
    run = train_classifier(model, rows, tokenizer=tokenizer, settings=SETTINGS, task="mnli", progress=False)
    assert run.held_out is not None
    assert {check["value"] for check in run.held_out["checks"]} == {2.0}
