"""Check that training learns, repeats itself, touches only what it should, and says what is wrong."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import tiny_model
from torch import Tensor, nn

import foldflat
from foldflat.errors import DataError, RecipeError
from foldflat.evaluate import (
    TrainingSettings,
    finetune_classifier,
    load_split,
    predict_logits,
    train_classifier,
)

STEPS = TrainingSettings(max_steps=3, learning_rate=1e-3, batch_size=8)


@pytest.fixture(scope="module")
def mnli(glue_folder: Callable[..., Path]) -> Path:
    """Return a folder for the task of three labels, as many as the tiny classifiers have."""
    return glue_folder("mnli", n=24)


@pytest.fixture
def rows(mnli: Path, tokenizer: Any) -> Any:
    """Return the tokenised training rows of `mnli`."""
    return load_split(mnli, "mnli", "train", tokenizer=tokenizer)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter and buffer."""
    return copy.deepcopy(model.state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Compare bit for bit."""
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_new_head_learns_a_simple_task(sst2: Path, masked_lm: Path) -> None:
    """Majority is 0.5; sentences whose words give the label away are told apart after 40 steps."""
    settings = TrainingSettings(max_steps=40, learning_rate=3e-3, batch_size=16)
    result = finetune_classifier(masked_lm, "sst2", sst2, settings=settings, progress=False)
    assert result.metrics["majority_baseline"] == 0.5
    assert result.metrics["accuracy"] >= 0.95
    assert result.metrics["beats_majority"]
    assert result.model.config.id2label == {0: "negative", 1: "positive"}
    assert result.run.steps == 40
    assert 0 < result.run.train_loss < 0.6
    assert result.run.seconds > 0


@pytest.mark.parametrize("bf16", [False, True])
def test_a_seed_decides_the_run_whatever_the_global_generators_hold(bf16: bool, sst2: Path, masked_lm: Path) -> None:
    """Head, order and dropout: equal seeds give equal bits, another seed does not."""

    def run(seed: int, disturbance: int) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(disturbance)
            settings = TrainingSettings(seed=seed, max_steps=2, bf16=bf16, batch_size=8)
            result = finetune_classifier(masked_lm, "sst2", sst2, settings=settings, progress=False)
            return weights(result.model)

    first = run(0, 1)
    assert equal(first, run(0, 2))
    assert not equal(first, run(1, 1))


@pytest.mark.parametrize("bf16", [False, True])
def test_training_leaves_no_trace_but_the_weights(
    bf16: bool, rows: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file, no wrapped forward, no changed config, and the global generators where they were."""
    from transformers.utils import logging

    monkeypatch.chdir(tmp_path)
    model = tiny_model("distilbert", head="classifier").train()
    attributes, config, verbosity = set(vars(model)), model.config.to_dict(), logging.get_verbosity()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    settings = TrainingSettings(max_steps=1, bf16=bf16)
    train_classifier(model, rows, tokenizer=tokenizer, settings=settings, progress=False)
    predict_logits(model, rows, tokenizer=tokenizer)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == states
    assert not list(tmp_path.iterdir())
    assert set(vars(model)) == attributes
    assert model.config.to_dict() == config
    assert logging.get_verbosity() == verbosity
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.grad is None for parameter in model.parameters())


class FrozenEmbedding(nn.Module):
    """Look rows up as assignments into two frozen parts do: a buffer, and a parameter without gradient."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(table.shape[0]))
        self.frozen = nn.Parameter(table.clone(), requires_grad=False)
        self.shift = nn.Parameter(torch.zeros(table.shape[1]))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of `ids`, all shifted alike."""
        return self.frozen[self.order[ids]] + self.shift


def test_frozen_parts_of_a_replaced_embedding_stay(rows: Any, tokenizer: Any) -> None:
    """What requires no gradient is bitwise the same, weight decay or not; everything else has moved."""
    model = tiny_model("distilbert", head="classifier")
    model.set_input_embeddings(FrozenEmbedding(model.get_input_embeddings().weight.detach()))
    before = weights(model)
    train_classifier(model, rows, tokenizer=tokenizer, settings=STEPS, progress=False)
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    prefix = "distilbert.embeddings.word_embeddings"
    assert same == {f"{prefix}.order", f"{prefix}.frozen"}


@pytest.mark.parametrize(
    ("tables", "trained", "moved"),
    [
        ("none", (), set()),
        ("bases", ("bases",), {"bases", "scales"}),
        ("all", ("bases", "coefficients"), {"bases", "scales", "codes"}),
    ],
)
def test_quantised_tables_are_trained_as_asked_and_stored_again(
    tables: str, trained: tuple[str, ...], moved: set[str], mnli: Path, tokenizer: Any
) -> None:
    """What is trained is said and has moved; the table has its bytes, no parameters, and nothing else has changed."""
    recipe = foldflat.EmbeddingRecipe(n_subspaces=2, coefficients="int4")
    model = foldflat.compress(tiny_model("distilbert", head="classifier"), recipe).model
    layer = model.get_input_embeddings()
    before, size = weights(layer), layer.size_bytes
    settings = TrainingSettings(max_steps=3, learning_rate=1e-2, batch_size=8, tables=tables)
    result = finetune_classifier(model, "mnli", mnli, settings=settings, tokenizer=tokenizer, progress=False)
    name = "distilbert.embeddings.word_embeddings"
    assert result.run.tables == ({name: trained} if trained else {})
    assert {key for key, value in layer.state_dict().items() if not torch.equal(value, before[key])} == moved
    assert not list(layer.parameters())
    assert layer.size_bytes == size
    with pytest.raises(RecipeError, match=r"`tables` is some\nhint: one of none, bases, all"):
        TrainingSettings(tables="some")


def test_the_bar_shows_time_left_and_loss_on_stderr_only(
    rows: Any, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Standard output stays free; without progress both streams do."""
    model = tiny_model("distilbert", head="classifier")
    settings = TrainingSettings(max_steps=10, batch_size=2)
    train_classifier(model, rows, tokenizer=tokenizer, settings=settings)
    out, err = capfd.readouterr()
    assert out == ""
    assert "10/10" in err
    assert "loss=" in err
    train_classifier(model, rows, tokenizer=tokenizer, settings=settings, progress=False)
    assert capfd.readouterr() == ("", "")


def test_every_setting_reaches_the_trainer(rows: Any, tokenizer: Any) -> None:
    """Whichever is changed, two steps from the same weights end elsewhere."""

    def two_steps(**changed: Any) -> Tensor:
        model = tiny_model("distilbert", head="classifier")
        settings = TrainingSettings(**{"max_steps": 2, "batch_size": 8, "learning_rate": 1e-3} | changed)
        train_classifier(model, rows, tokenizer=tokenizer, settings=settings, progress=False)
        return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])

    changes = {
        "seed": 1,
        "learning_rate": 2e-3,
        "batch_size": 4,
        "weight_decay": 0.5,
        "bf16": True,
        "group_by_length": True,
    }
    usual = two_steps()
    assert [key for key, value in changes.items() if torch.equal(usual, two_steps(**{key: value}))] == []


def test_the_learning_rate_rises_from_nothing(rows: Any, tokenizer: Any) -> None:
    """The first step of a warm-up has rate 0 and changes nothing; without warm-up it does."""

    def one_step(warmup_ratio: float) -> bool:
        model = tiny_model("distilbert", head="classifier")
        before = weights(model)
        settings = TrainingSettings(max_steps=1, warmup_ratio=warmup_ratio)
        train_classifier(model, rows, tokenizer=tokenizer, settings=settings, progress=False)
        return equal(before, model.state_dict())

    assert one_step(warmup_ratio=0.9)
    assert not one_step(warmup_ratio=0)


def test_epochs_count_passes_over_the_data(rows: Any, tokenizer: Any) -> None:
    """24 rows in batches of 10 are 3 steps; an epoch and a half are 5."""
    model = tiny_model("distilbert", head="classifier")
    settings = TrainingSettings(epochs=1.5, batch_size=10)
    assert train_classifier(model, rows, tokenizer=tokenizer, settings=settings, progress=False).steps == 5


def test_logits_come_back_in_the_order_of_the_rows(rows: Any, tokenizer: Any) -> None:
    """The oracle runs each row alone, without padding; the mode of the model is kept."""
    model = tiny_model("bert", head="classifier").train()
    logits = predict_logits(model, rows, tokenizer=tokenizer, batch_size=5)
    assert model.training
    model.eval()
    with torch.no_grad():
        alone = [model(torch.tensor([ids])).logits[0] for ids in rows["input_ids"]]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, torch.stack(alone).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "value", "limit"),
    [
        ("seed", -1, "from 0"),
        ("seed", 2**32, "from 0"),
        ("epochs", 0, "above 0"),
        ("epochs", float("nan"), "above 0"),
        ("max_steps", 0, "at least 1, or -1"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", float("inf"), "above 0"),
        ("batch_size", 0, "at least 1"),
        ("warmup_ratio", 1.0, "below 1"),
        ("weight_decay", -0.1, "at least 0"),
        ("max_length", 7, "at least 8 tokens"),
        ("hold_out", 0.6, "to 0.5"),
        ("checks", 0, "at least 1"),
        ("patience", -1, "at least 1, or 0"),
        ("patience", 1, "it needs `hold_out`"),
        ("teacher_weight", 1.5, "from 0"),
        ("temperature", 0.0, "above 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: Any, limit: str) -> None:
    """Name, value and limit."""
    with pytest.raises(RecipeError, match=f"`{setting}` is .*\nhint: .*{limit}"):
        TrainingSettings(**{setting: value})


def test_a_loss_that_is_not_finite_stops_the_run(rows: Any, tokenizer: Any) -> None:
    """NaN in the weights shows at the first step; a learning rate that overflows, at a later one."""
    model = tiny_model("distilbert", head="classifier")
    broken = copy.deepcopy(model)
    broken.classifier.bias.data[0] = torch.nan
    with pytest.raises(DataError, match=r"loss became nan at step 1 of 3.*not usable\nhint: a lower learning"):
        train_classifier(broken, rows, tokenizer=tokenizer, settings=STEPS, progress=False)
    assert not broken.training
    assert all(parameter.grad is None for parameter in broken.parameters())
    wild = TrainingSettings(max_steps=5, learning_rate=1e30, warmup_ratio=0)
    with pytest.raises(DataError, match=r"loss became (nan|inf) at step [2-5] of 5"):
        train_classifier(model, rows, tokenizer=tokenizer, settings=wild, progress=False)


def test_a_machine_without_bfloat16_is_told(rows: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Trainer's arguments refuse comes back as an error of the recipe."""
    import transformers

    def refuse(**_: Any) -> None:
        raise ValueError("Your setup doesn't support bf16")

    monkeypatch.setattr(transformers, "TrainingArguments", refuse)
    model = tiny_model("distilbert", head="classifier")
    with pytest.raises(RecipeError, match=r"Trainer refuses these settings on cpu: .* bf16"):
        train_classifier(model, rows, tokenizer=tokenizer, settings=STEPS, progress=False)


def test_weights_that_are_not_finite_after_the_last_step_are_reported(rows: Any, tokenizer: Any) -> None:
    """The loss need not show it: here the weight is not used at all."""
    model = tiny_model("distilbert", head="classifier")
    model.spare = nn.Parameter(torch.tensor([torch.inf]))
    with pytest.raises(DataError, match="NaN or infinity in 'spare'"):
        train_classifier(model, rows, tokenizer=tokenizer, settings=STEPS, progress=False)


def test_data_that_cannot_be_trained_on_is_refused(rows: Any, tokenizer: Any) -> None:
    """No rows, no labels, no row in a batch, more tokens than positions, no padding token."""
    model = tiny_model("distilbert", head="classifier")

    def train(data: Any) -> None:
        train_classifier(model, data, tokenizer=tokenizer, settings=STEPS, progress=False)

    with pytest.raises(DataError, match="no rows"):
        train(rows.select([]))
    with pytest.raises(DataError, match="needs a column `labels`; found input_ids, attention_mask"):
        train(rows.remove_columns("labels"))
    with pytest.raises(RecipeError, match="`batch_size` is 0"):
        predict_logits(model, rows, tokenizer=tokenizer, batch_size=0)
    model.config.max_position_embeddings = 5
    with pytest.raises(DataError, match="tokens, the model has 5 positions\nhint: tokenise with max_length=5"):
        train(rows)
    tokenizer.pad_token = None
    with pytest.raises(DataError, match="no padding token"):
        train(rows)


def test_a_teacher_is_learnt_from(rows: Any, tokenizer: Any) -> None:
    """With the teacher alone the labels do not count, and the answers come closer to its own; it stays as it was."""
    from foldflat.evaluate.distillation import distillation_loss

    teacher = tiny_model("distilbert", head="classifier", seed=1).train()
    with torch.no_grad():
        teacher.classifier.weight.mul_(20)
    before = weights(teacher)

    def trained(labels: list[int], **settings: Any) -> nn.Module:
        model = tiny_model("distilbert", head="classifier")
        own = rows.remove_columns("labels").add_column("labels", labels)
        run = TrainingSettings(**{"max_steps": 30, "batch_size": 8, "learning_rate": 3e-3, **settings})
        train_classifier(model, own, tokenizer=tokenizer, settings=run, teacher=teacher, progress=False)
        return model

    def distance(model: nn.Module) -> float:
        own, theirs = (torch.from_numpy(predict_logits(one, rows, tokenizer=tokenizer)) for one in (model, teacher))
        return distillation_loss(own, theirs, 1.0).item()

    zeros, ones = [0] * len(rows), [1] * len(rows)
    taught = trained(zeros, teacher_weight=1.0)
    assert equal(weights(taught), weights(trained(ones, teacher_weight=1.0)))
    assert distance(taught) < distance(tiny_model("distilbert", head="classifier")) / 3
    assert distance(taught) < distance(trained(zeros, teacher_weight=0.0)) / 3
    assert not equal(weights(taught), weights(trained(zeros, teacher_weight=1.0, temperature=5.0)))
    assert teacher.training
    assert equal(before, weights(teacher))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_teacher_goes_where_its_process_trains_and_back(
    rows: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun that is a GPU of its own, not the one that the models were loaded onto."""
    import transformers

    teacher, places = tiny_model("distilbert", head="classifier", seed=1), list[str]()
    monkeypatch.setattr(teacher, "to", lambda device: places.append(str(device)) or teacher)
    monkeypatch.setattr(transformers.TrainingArguments, "device", property(lambda _: torch.device("cpu", 0)))
    train_classifier(
        tiny_model("distilbert", head="classifier"),
        rows,
        tokenizer=tokenizer,
        settings=STEPS,
        teacher=teacher,
        progress=False,
    )
    assert places == ["cpu:0", "cpu"]


def test_a_teacher_that_cannot_teach_is_refused(rows: Any, tokenizer: Any) -> None:
    """The model itself, and one of another number of labels."""
    model = tiny_model("distilbert", head="classifier")
    other = copy.deepcopy(model)
    other.config.num_labels = 2

    def fails(kind: type[Exception], message: str, teacher: nn.Module) -> None:
        with pytest.raises(kind, match=message):
            train_classifier(model, rows, tokenizer=tokenizer, settings=STEPS, teacher=teacher, progress=False)

    fails(RecipeError, "the teacher is the model itself", model)
    fails(DataError, "the teacher predicts 2 labels, the model 3", other)
