"""Networks pruned on disk: one shot, in rounds, interrupted, of a user's own class and of transformers."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.tiny import image_rows
from torch import nn
from typer.testing import CliRunner

import foldflat
from foldflat.cli import app
from foldflat.errors import CheckpointError, ModelNotFoundError, PlanMismatchError, RecipeError, UnsupportedModelError
from foldflat.evaluate import RetrainingSettings
from foldflat.filters.recipe import FilterRecipe
from foldflat.workflow import pruning
from foldflat.workflow.networks import open_network
from foldflat.workflow.pruning import PruningRun, prune_folder

MODULE = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )

def nothing():
    return None
"""
STEPS = RetrainingSettings(max_steps=4, batch_size=16, learning_rate=0.02)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder with a module `tiny_nets`, its weights, and images in two splits; it is the current one."""
    import datasets
    from datasets import ClassLabel, Dataset, Features, Image

    folder = tmp_path_factory.mktemp("pruning")
    (folder / "tiny_nets.py").write_text(MODULE)
    (folder / "data").mkdir()
    features = Features({"img": Image(), "label": ClassLabel(names=["red", "green", "blue"])})
    for seed, split in enumerate(("train", "test")):
        with (folder / "data" / f"{split}.parquet").open("wb") as file:
            Dataset.from_dict(image_rows(48, seed), features=features).to_parquet(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.chdir(folder)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = open_build(patch)
        save_file(model.state_dict(), folder / "net.safetensors")
        yield folder
    sys.modules.pop("tiny_nets", None)


def open_build(patch: pytest.MonkeyPatch) -> nn.Module:
    """Build the network of the module in the current folder."""
    patch.syspath_prepend(".")
    from tiny_nets import build  # type: ignore[import-not-found]

    model: nn.Module = build()
    return model


def pruned(workplace: Path, target: Path, **given: Any) -> foldflat.Result:
    """Prune to 0.6 with 24 calibration images."""
    run = PruningRun(data=str(workplace / "data"), images=24, **given)
    recipe = FilterRecipe(keep_ratio=0.6, method="l2")
    return prune_folder("tiny_nets:build", target, recipe, run, weights=workplace / "net.safetensors", progress=False)


@pytest.mark.usefixtures("workplace")
def test_the_command_writes_a_complete_folder(tmp_path: Path) -> None:
    """Scores, sizes, a card, and a network that loads into a fresh instance."""
    import tiny_nets

    target = tmp_path / "small"
    arguments = ["prune", "tiny_nets:build", "--weights", "net.safetensors", "--data", "data", "--keep", "0.6"]
    done = CliRunner().invoke(app, [*arguments, "--images", "24", "-o", str(target), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["parameters_after"] <= 0.6 * report["parameters_before"]
    assert report["scores"]["original"]["n"] == 48
    assert report["scores"]["compressed"] == report["rounds"][0]["pruned"]
    loaded = foldflat.load(target, model=tiny_nets.build())
    assert sum(parameter.numel() for parameter in loaded.parameters()) == report["parameters_after"]
    assert set(report["latency"]) == {"1", "32"}
    macs = {name: sum(layer["macs"] for layer in layers) for name, layers in report["layers"].items()}
    assert macs == {"original": report["macs_before"], "compressed": report["macs_after"]}
    card = (target / "README.md").read_text()
    assert "from tiny_nets import build" in card
    assert "Accuracy on 48 images" in card
    again = CliRunner().invoke(app, [*arguments, "-o", str(target)])
    assert again.exit_code == 1
    assert "TargetExistsError" in again.output


@pytest.mark.usefixtures("workplace")
def test_what_is_printed_names_every_layer_and_the_accuracies(tmp_path: Path) -> None:
    """The table of channels, the sizes, the accuracy of each round."""
    arguments = ["prune", "tiny_nets:build", "--weights", "net.safetensors", "--data", "data", "--method", "pfp"]
    done = CliRunner().invoke(app, [*arguments, "--images", "24", "-o", str(tmp_path / "small")])
    assert done.exit_code == 0, done.output
    for text in ("Accuracy on 48 images", "original", "they are an output of the", "parameters", "bound", "batch 32: "):
        assert text in done.output


def test_rounds_meet_the_size_and_count_from_the_original(workplace: Path, tmp_path: Path) -> None:
    """Each round keeps the same share; sizes before are the original's."""
    result = pruned(workplace, tmp_path / "small", rounds=2, retraining=STEPS, distil=True)
    first, second = result.report["rounds"]
    assert first["keep_ratio"] == pytest.approx(0.6**0.5, abs=0.08)
    assert 0.5 < second["keep_ratio"] <= 0.6
    assert result.report["parameters_before"] == 851
    assert result.report["parameters_after"] == sum(parameter.numel() for parameter in result.model.parameters())
    assert {"pruned", "retrained"} < set(second)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_an_interrupted_run_goes_on_and_ends_the_same(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first round is not done again; the network is the one of a run without interruption."""
    import tiny_nets

    given: dict[str, Any] = {"rounds": 2, "retraining": STEPS}
    pruned(workplace, tmp_path / "whole", **given)
    calls = []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    original = pruning.retrain
    monkeypatch.setattr(pruning, "retrain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pruned(workplace, tmp_path / "cut", **given)
    assert not (tmp_path / "cut").exists()
    pruned(workplace, tmp_path / "cut", **given)
    assert len(calls) == 3
    whole, cut = (foldflat.load(tmp_path / name, model=tiny_nets.build()).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_an_unfinished_run_with_other_settings_is_named(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is lost."""

    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "retrain", stopped)
    with pytest.raises(KeyboardInterrupt):
        pruned(workplace, tmp_path / "small", retraining=STEPS)
    with pytest.raises(CheckpointError, match="unfinished run with other settings"):
        pruned(workplace, tmp_path / "small", retraining=STEPS, distil=True)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        save_file(sys.modules["tiny_nets"].build().state_dict(), tmp_path / "other.safetensors")
    run = PruningRun(data=str(workplace / "data"), images=24, retraining=STEPS)
    with pytest.raises(CheckpointError, match="unfinished run with other settings"):
        prune_folder(
            "tiny_nets:build",
            tmp_path / "small",
            FilterRecipe(keep_ratio=0.6, method="l2"),
            run,
            weights=tmp_path / "other.safetensors",
            progress=False,
        )


def test_a_model_of_transformers_reloads_by_itself(workplace: Path, tmp_path: Path) -> None:
    """Its processor's settings are read and copied."""
    from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

    source, target = tmp_path / "resnet", tmp_path / "small"
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    ResNetForImageClassification(config).save_pretrained(source)
    settings = {"do_resize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
    (source / "preprocessor_config.json").write_text(json.dumps(settings))
    run = PruningRun(data=str(workplace / "data"), images=24)
    result = prune_folder(str(source), target, FilterRecipe(keep_ratio=0.7, method="l1"), run, progress=False)
    loaded = AutoModelForImageClassification.from_pretrained(target)
    assert type(loaded).__name__ == "ResNetForImageClassification"
    expected = result.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert (target / "preprocessor_config.json").is_file()


def test_networks_that_cannot_be_opened_say_why(workplace: Path, tmp_path: Path) -> None:
    """Each message names what was given and the way out."""
    weights = workplace / "net.safetensors"
    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(RecipeError, match=r"without trained weights; hint: --weights"):
        open_network("tiny_nets:build")
    with pytest.raises(ModelNotFoundError, match="cannot be imported"):
        open_network("no_such_module:build", weights)
    with pytest.raises(ModelNotFoundError, match="has no function 'absent'"):
        open_network("tiny_nets:absent", weights)
    with pytest.raises(UnsupportedModelError, match="returns a NoneType"):
        open_network("tiny_nets:nothing", weights)
    with pytest.raises(PlanMismatchError, match="does not fit what tiny_nets:build builds"):
        open_network("tiny_nets:build", tmp_path / "other.safetensors")
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        open_network("tiny_nets:build", tmp_path / "absent.safetensors")


def test_settings_that_make_no_sense_are_refused() -> None:
    """Rounds and distillation need retraining."""
    with pytest.raises(RecipeError, match="nothing is retrained between them"):
        PruningRun(data="x", rounds=2)
    with pytest.raises(RecipeError, match="nothing is retrained"):
        PruningRun(data="x", distil=True)
    with pytest.raises(RecipeError, match="`images` is 0"):
        PruningRun(data="x", images=0)
