"""Retraining image networks of any class: deterministic, distilled, resumed, and nothing left behind."""

import copy
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from foldflat.errors import CheckpointError, DataError, RecipeError
from foldflat.evaluate import ImageDataset, RetrainingSettings, retrain, score_images

STEPS = RetrainingSettings(max_steps=7, batch_size=8, learning_rate=0.05)


class Small(nn.Module):
    """Convolve, normalise, drop out, classify."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, 3)."""
        return self.head(self.drop(functional.relu(self.bn(self.conv(images))).mean((2, 3))))


def small(seed: int = 0) -> Small:
    """Return a network that depends on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Small()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter and buffer."""
    return copy.deepcopy(model.state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Compare bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run(dataset: ImageDataset, settings: RetrainingSettings = STEPS, **options: Any) -> dict[str, Tensor]:
    """Retrain a new network and return its weights."""
    model = small()
    retrain(model, dataset, settings, progress=False, **options)
    return weights(model)


def test_a_simple_task_is_learned(colours: ImageDataset) -> None:
    """Three colours are told apart after 60 steps; the run says how it went."""
    model = small()
    settings = RetrainingSettings(max_steps=60, batch_size=16, learning_rate=0.2)
    done = retrain(model, colours, settings, progress=False)
    assert score_images(model, colours)["accuracy"] >= 0.95
    assert type(model) is Small
    assert done.steps == 60
    assert 0 < done.train_loss < 1.2
    assert done.seconds > 0


@pytest.mark.parametrize("bf16", [False, True])
def test_a_seed_decides_the_run_whatever_the_global_generators_hold(bf16: bool, colours: ImageDataset) -> None:
    """Order, augmentation and dropout: equal seeds give equal bits, another seed does not."""
    settings = dataclasses.replace(STEPS, bf16=bf16)
    first = run(colours, settings)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert equal(first, run(colours, settings))
    assert not equal(first, run(colours, dataclasses.replace(settings, seed=1)))


def test_every_setting_reaches_the_trainer(colours: ImageDataset) -> None:
    """Whichever is changed, the run from the same weights ends elsewhere."""
    teacher = small(seed=5)
    changes = {
        "seed": 1,
        "max_steps": 6,
        "learning_rate": 0.1,
        "batch_size": 4,
        "warmup_ratio": 0.5,
        "weight_decay": 0.1,
        "label_smoothing": 0.2,
        "teacher_weight": 0.5,
        "temperature": 1.0,
        "augment": False,
        "bf16": True,
    }
    usual = run(colours, teacher=teacher)
    changed = {
        key: run(colours, dataclasses.replace(STEPS, **{key: value}), teacher=teacher) for key, value in changes.items()
    }
    assert [key for key, end in changed.items() if equal(usual, end)] == []


def test_layout_in_memory_changes_speed_only(colours: ImageDataset) -> None:
    """Channels last ends where channels first does, up to rounding, and leaves the weights laid out as they were."""
    first, last = run(colours), run(colours, dataclasses.replace(STEPS, channels_last=True))
    assert all(torch.allclose(first[name], last[name], atol=1e-4) for name in first)
    assert last["conv.weight"].is_contiguous()


def test_the_first_step_by_hand(colours: ImageDataset) -> None:
    """All images at once, no augmentation, no dropout, no warm-up: Nesterov momentum, decay on matrices only."""
    settings = RetrainingSettings(
        max_steps=1, batch_size=48, learning_rate=0.1, warmup_ratio=0, weight_decay=0.01, augment=False
    )
    model, oracle = small(), small()
    model.drop.p = oracle.drop.p = 0.0
    retrain(model, colours, settings, progress=False)
    oracle.train()
    functional.cross_entropy(oracle(colours.normalised(slice(None))), colours.labels).backward()
    for name, parameter in oracle.named_parameters():
        gradient = parameter.grad + (0.01 * parameter.detach() if parameter.ndim > 1 else 0)
        expected = parameter.detach() - 0.1 * 1.9 * gradient
        assert torch.allclose(model.get_parameter(name), expected, atol=1e-6), name


def test_the_rate_rises_and_falls_to_nothing(colours: ImageDataset) -> None:
    """Ten steps of warm-up of forty; the peak is the rate asked for; a report every ten steps."""
    seen: list[dict[str, Any]] = []
    settings = dataclasses.replace(STEPS, max_steps=40, warmup_ratio=0.25, learning_rate=0.11)
    retrain(small(), colours, settings, progress=False, on_progress=seen.append)
    assert [entry["step"] for entry in seen] == [10, 20, 30, 40]
    assert {entry["steps"] for entry in seen} == {40}
    rates = [entry["learning_rate"] for entry in seen]
    assert rates[0] == pytest.approx(0.11 * 10 / 11)
    assert rates[1] == pytest.approx(0.11 * (1 + np.cos(np.pi * 9 / 30)) / 2)
    assert rates[3] < 0.001
    assert all(entry["loss"] > 0 for entry in seen)


def test_epochs_count_passes_without_what_is_left_over(colours: ImageDataset) -> None:
    """48 images in batches of 10 are 4 steps; an epoch and a half are 6; a batch above 48 takes all of them."""
    for batch_size, epochs, steps in ((10, 1.5, 6), (100, 3, 3)):
        settings = RetrainingSettings(epochs=epochs, batch_size=batch_size)
        assert retrain(small(), colours, settings, progress=False).steps == steps


def test_augmentation_flips_and_shifts() -> None:
    """Each image is its own, or its mirror, moved by at most 1 of 8 pixels, black outside; both kinds occur."""
    from foldflat.evaluate.image_trainer import augmented

    images = torch.randint(1, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = augmented(images, seed=3)
    found = set()
    for before, after in zip(images, result, strict=True):
        variants = {}
        for flip in (False, True):
            source = functional.pad(before.flip(2) if flip else before, (1, 1, 1, 1))
            for down in range(3):
                for right in range(3):
                    variants[flip, down, right] = source[:, down : down + 8, right : right + 8]
        found |= {key for key, variant in variants.items() if torch.equal(variant, after)}
    assert len(found) >= 15
    assert torch.equal(result, augmented(images, seed=3))
    assert not torch.equal(result, augmented(images, seed=4))


def test_every_step_augments_in_its_own_way(colours: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two steps of a run share a draw, nor do the first steps of two seeds."""
    from foldflat.evaluate import image_trainer

    draws: list[int] = []

    def recorded(images: Tensor, seed: int) -> Tensor:
        draws.append(seed)
        return images

    monkeypatch.setattr(image_trainer, "augmented", recorded)
    run(colours)
    run(colours, dataclasses.replace(STEPS, seed=1))
    assert len(set(draws)) == len(draws) == 14


def test_distillation_brings_the_model_closer_to_the_teacher(colours: ImageDataset) -> None:
    """The divergence over all images falls below a third; labels alone leave more; the teacher stays as it is."""
    from foldflat.evaluate.distillation import distillation_loss

    teacher = small(seed=5)
    retrain(teacher, colours, RetrainingSettings(max_steps=40, batch_size=16, learning_rate=0.2), progress=False)
    teacher.train()
    before = weights(teacher)

    def divergence(model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            images = colours.normalised(slice(None))
            return distillation_loss(model(images), copy.deepcopy(teacher).eval()(images), 1.0).item()

    def trained(weight: float) -> float:
        model = small()
        settings = RetrainingSettings(max_steps=60, batch_size=16, learning_rate=0.1, teacher_weight=weight)
        retrain(model, colours, settings, teacher=teacher, progress=False)
        return divergence(model)

    with_teacher = trained(1.0)
    assert with_teacher < divergence(small()) / 3
    assert with_teacher < trained(0.0)
    assert teacher.training
    assert equal(before, weights(teacher))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_distance_from_the_teacher_by_hand() -> None:
    """Logits (0, 0) and (ln 3 * 2, 0) at temperature 2: 4 * (3/4 ln 3/2 + 1/4 ln 1/2), for any number of rows."""
    from foldflat.evaluate.distillation import distillation_loss

    own, theirs = torch.zeros(5, 2), torch.tensor([[2 * np.log(3.0), 0.0]]).float().repeat(5, 1)
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert distillation_loss(own, theirs, 2.0).item() == pytest.approx(expected, rel=1e-5)


class Interruption(KeyboardInterrupt):
    """Stand for someone who stops the run."""


def interrupt_at(steps: int) -> Callable[[dict[str, Any]], None]:
    """Return a report that raises once so many steps are done."""

    def report(values: dict[str, Any]) -> None:
        if values["step"] >= steps:
            raise Interruption

    return report


@pytest.mark.parametrize("bf16", [False, True])
def test_an_interrupted_run_ends_as_it_would_have(bf16: bool, colours: ImageDataset, tmp_path: Path) -> None:
    """Stopped at step 20 of 25, in the middle of an epoch, it goes on from step 18 to the same bits."""
    settings = dataclasses.replace(STEPS, max_steps=25, bf16=bf16)
    teacher, start = small(seed=5), weights(small())
    whole = run(colours, settings, teacher=teacher)
    model = small()
    options: dict[str, Any] = {"teacher": teacher, "checkpoints": tmp_path / "run", "checkpoint_steps": 9}
    with pytest.raises(Interruption):
        retrain(model, colours, settings, progress=False, on_progress=interrupt_at(20), **options)
    assert equal(weights(model), start), "an interrupted run leaves the model as it was"
    assert sorted(path.name for path in tmp_path.glob("run/checkpoint-*")) == ["checkpoint-18", "checkpoint-9"]
    resumed: list[int] = []
    done = retrain(model, colours, settings, progress=False, on_progress=lambda v: resumed.append(v["step"]), **options)
    assert (done.steps, resumed) == (25, [20])
    assert equal(weights(model), whole)
    assert equal(run(colours, settings, **options), whole), "a finished run gives its weights at once"


def test_a_half_written_checkpoint_is_passed_over(colours: ImageDataset, tmp_path: Path) -> None:
    """What a power cut left of the last one counts for nothing; one that claims to be whole is an error."""
    settings = dataclasses.replace(STEPS, max_steps=12)
    whole = run(colours, settings, checkpoints=tmp_path, checkpoint_steps=5)
    (tmp_path / "checkpoint-12" / "trainer_state.json").write_text('{"global_')
    assert equal(run(colours, settings, checkpoints=tmp_path, checkpoint_steps=5), whole)
    (tmp_path / "checkpoint-12" / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"checkpoint-12/weights.* cannot be resumed from: .*\nhint: delete"):
        run(colours, settings, checkpoints=tmp_path, checkpoint_steps=5)


def test_checkpoints_of_another_run_are_refused(colours: ImageDataset, tmp_path: Path) -> None:
    """Other settings, weights, images or teacher, and a folder with something else."""
    folder = tmp_path / "run"
    run(colours, checkpoints=folder)
    with pytest.raises(CheckpointError, match="of another run: `seed` was 0, is 1\nhint: give another folder"):
        run(colours, dataclasses.replace(STEPS, seed=1), checkpoints=folder)
    with pytest.raises(CheckpointError, match="another run: `model` was"):
        retrain(small(seed=1), colours, STEPS, checkpoints=folder, progress=False)
    with pytest.raises(CheckpointError, match="another run: `teacher` was None"):
        run(colours, checkpoints=folder, teacher=small(seed=1))
    with pytest.raises(CheckpointError, match="another run: `data` was"):
        run(colours.part(torch.arange(40)), checkpoints=folder)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(CheckpointError, match="holds other files\nhint: checkpoints need a folder of their own"):
        run(colours, checkpoints=tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot hold checkpoints: .*\nhint: give another folder"):
        run(colours, checkpoints=tmp_path / "mine.txt")


@pytest.mark.parametrize("bf16", [False, True])
def test_training_leaves_no_trace_but_the_weights(
    bf16: bool, colours: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file, no wrapped forward, no gradient, and the global generators where they were."""
    monkeypatch.chdir(tmp_path)
    model = small().train()
    model.head.weight.requires_grad_(requires_grad=False)
    attributes, frozen = set(vars(model)), model.head.weight.clone()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    retrain(model, colours, dataclasses.replace(STEPS, bf16=bf16), teacher=small(1), progress=False)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == states
    assert not list(tmp_path.iterdir())
    assert set(vars(model)) == attributes
    assert not model.training
    assert torch.equal(model.head.weight, frozen)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_models_of_transformers_are_retrained_alike(colours: ImageDataset, tmp_path: Path) -> None:
    """A tiny ResNet learns, is interrupted and goes on; its class and config stay."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, layer_type="basic")

    def new() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return ResNetForImageClassification(config)

    settings = dataclasses.replace(STEPS, max_steps=12)
    whole, model = new(), new()
    before = whole.config.to_dict()
    retrain(whole, colours, settings, teacher=new(), progress=False)
    options: dict[str, Any] = {"teacher": new(), "checkpoints": tmp_path, "checkpoint_steps": 4}
    with pytest.raises(Interruption):
        retrain(model, colours, settings, progress=False, on_progress=interrupt_at(10), **options)
    retrain(model, colours, settings, progress=False, **options)
    assert equal(weights(model), weights(whole))
    assert whole.config.to_dict() == before
    assert type(whole) is ResNetForImageClassification


def test_the_bar_shows_time_left_and_loss_on_stderr_only(
    colours: ImageDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    """Standard output stays free; without progress both streams do."""
    settings = dataclasses.replace(STEPS, max_steps=10)
    retrain(small(), colours, settings)
    out, err = capfd.readouterr()
    assert out == ""
    assert "10/10" in err
    assert "loss=" in err
    retrain(small(), colours, settings, progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("setting", "value", "limit"),
    [
        ("seed", -1, "from 0"),
        ("epochs", 0, "above 0"),
        ("epochs", float("nan"), "above 0"),
        ("max_steps", 0, "at least 1, or -1"),
        ("learning_rate", 0.0, "above 0"),
        ("batch_size", 0, "at least 1"),
        ("warmup_ratio", 1.0, "below 1"),
        ("weight_decay", -0.1, "at least 0"),
        ("label_smoothing", 1.0, "below 1"),
        ("teacher_weight", 1.1, "from 0"),
        ("temperature", 0.0, "above 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting: str, value: Any, limit: str) -> None:
    """Name, value and limit."""
    with pytest.raises(RecipeError, match=f"`{setting}` is .*\nhint: .*{limit}"):
        RetrainingSettings(**{setting: value})


def test_a_loss_that_is_not_finite_stops_the_run(colours: ImageDataset) -> None:
    """NaN in the weights shows at the first step; a learning rate that overflows, at a later one."""
    broken = small()
    broken.head.bias.data[0] = torch.nan
    with pytest.raises(DataError, match=r"loss became nan at step 1 of 7.*not usable\nhint: a lower learning"):
        retrain(broken, colours, STEPS, progress=False)
    assert not broken.training
    assert all(parameter.grad is None for parameter in broken.parameters())
    with pytest.raises(DataError, match=r"loss became (nan|inf) at step [2-7] of 7"):
        run(colours, dataclasses.replace(STEPS, learning_rate=1e30, warmup_ratio=0))
    spare = small()
    spare.spare = nn.Parameter(torch.tensor([torch.inf]))
    with pytest.raises(DataError, match="NaN or infinity in 'spare'"):
        retrain(spare, colours, STEPS, progress=False)


def test_what_cannot_be_retrained_is_refused(colours: ImageDataset) -> None:
    """No images, the model as its own teacher, a model for other images, a view of what is laid out otherwise."""
    model = small()
    with pytest.raises(DataError, match="no images"):
        retrain(model, colours.part(torch.arange(0)), STEPS)
    with pytest.raises(RecipeError, match="the teacher is the model itself\nhint: a copy"):
        retrain(model, colours, STEPS, teacher=model)
    with pytest.raises(RecipeError, match="`checkpoint_steps` is 0"):
        retrain(model, colours, STEPS, checkpoint_steps=0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    with pytest.raises(DataError, match=r"does not take images of shape \[8, 3, 8, 8\]"):
        retrain(flat, colours, STEPS, progress=False)

    class Viewing(Small):
        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images)
            return self.head(maps.view(len(maps), -1)[:, :8])

    with pytest.raises(DataError, match=r"hint: .*`channels_last=False`, where the model calls `view`"):
        retrain(Viewing(), colours, dataclasses.replace(STEPS, channels_last=True), progress=False)


def test_a_machine_without_bfloat16_is_told(colours: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Trainer's arguments refuse comes back as an error of the recipe."""
    import transformers

    def refuse(**_: Any) -> None:
        raise ValueError("Your setup doesn't support bf16")

    monkeypatch.setattr(transformers, "TrainingArguments", refuse)
    with pytest.raises(RecipeError, match=r"Trainer refuses these settings on cpu: .* bf16"):
        run(colours)
