"""Check that plans do what they say, from memory and from JSON, and that pruned networks survive folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.nets import NETS, built, images
from tests.processes import in_new_process, read_with_transformers
from torch import nn

import foldflat
from foldflat.errors import CheckpointError, PlanMismatchError
from foldflat.filters import planning
from foldflat.filters.recipe import METHODS
from foldflat.model.channels import trace_channels
from foldflat.model.removal import zero_channels

pytestmark = pytest.mark.xdist_group("pruning")

ROOT = Path(__file__).resolve().parents[2]
BATCH = images(8)


def compressed(model: nn.Module, keep_ratio: float = 0.6, **settings: Any) -> foldflat.Result:
    """Prune with the batch."""
    return foldflat.compress(model, foldflat.FilterRecipe(keep_ratio, **{"method": "pfp", **settings}), BATCH)


def same(first: nn.Module, second: nn.Module) -> bool:
    """Say whether two networks hold the same numbers under the same names."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


SETTINGS: list[dict[str, Any]] = [
    *({"method": method, "refit": False} for method in METHODS),
    {"variant": "random"},
    {"variant": "hybrid"},
    {"compensate": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_plan_read_from_json_does_the_same(settings: dict[str, Any]) -> None:
    """Bit for bit, on a copy: the network itself stays as it is."""
    model = built("residual")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = compressed(model, **settings)
    again = foldflat.apply(model, foldflat.FilterPlan.from_json(result.plan.to_json()))
    assert same(result.model, again.model)
    assert not same(result.model, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert type(result.model) is type(model)


def test_a_refit_is_measured_again_or_refused() -> None:
    """With the same data bit for bit, without them not at all: never half done."""
    model = built("residual")
    result = compressed(model, method="reconstruction")
    assert result.plan.refits
    plan = foldflat.FilterPlan.from_json(result.plan.to_json())
    assert same(foldflat.apply(model, plan, BATCH).model, result.model)
    assert same(foldflat.apply(model, plan, iter(BATCH.split(8))).model, result.model)
    with pytest.raises(
        PlanMismatchError, match=r"a plan's JSON does not hold them\nhint: foldflat.apply\(model, plan, c"
    ):
        foldflat.apply(model, plan)
    # fits for other weights are no fits for these
    with pytest.raises(PlanMismatchError, match="fits for these weights are not at hand"):
        foldflat.apply(built("residual", seed=1), result.plan)
    other = foldflat.apply(built("residual", seed=1), result.plan, BATCH)
    assert other.report["warnings"] == ["Head has other weights than those the plan was made for"]
    assert not same(other.model, result.model)


def test_a_plan_whose_channels_do_not_belong_together_is_refused() -> None:
    """Before anything is fitted."""
    model = built("residual")
    plan = compressed(model, method="reconstruction").plan
    plan.refits = {}
    plan.patterns.append([0])
    plan.axes["body.inner.0.weight"]["0"] = len(plan.patterns) - 1
    with pytest.raises(PlanMismatchError, match=r"does not keep the channels of `body.inner"):
        foldflat.apply(model, plan, BATCH)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("variant", ["deterministic", "random"])
def test_pruned_equals_unread_with_the_factors(name: str, variant: str) -> None:
    """End to end, on every small network: readers without the channels, the rest multiplied by the plan's factors."""
    model = built(name)
    result = compressed(model, 0.7, variant=variant)
    assert result.report["parameters_after"] < result.report["parameters_before"]
    channels = trace_channels(model, BATCH[:2])
    kept = torch.ones(channels.n_channels, dtype=torch.bool)
    factors = torch.ones(channels.n_channels)
    for plan, group in ((p, g) for p in result.plan.groups for g in channels.groups if g.name == p.name and g.is_free):
        if len(group.channels) == plan.size:
            kept[group.channels] = False
            kept[group.channels[plan.kept]] = True
            if plan.factors:
                factors[group.channels[plan.kept]] = torch.tensor(plan.factors)
    expected_of = zero_channels(model, channels, kept)
    with torch.no_grad():
        for layer, what in channels.layers.items():
            if what.op == "dense" and what.inputs is not None:
                weight: Any = expected_of.get_submodule(layer).weight
                axis = 0 if getattr(expected_of.get_submodule(layer), "transposed", False) else 1
                shape = [-1 if number == axis else 1 for number in range(weight.ndim)]
                weight.mul_(factors[channels.axes[f"{layer}.weight", axis]].reshape(shape))
        torch.testing.assert_close(result.model(BATCH), expected_of(BATCH), rtol=1e-5, atol=1e-5)


def test_drawn_weights_are_the_weights_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over seeds, at one epsilon, the pruned reader's weights, zero where channels are gone, are those before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1))
        model = nn.Sequential(*body, nn.Flatten()).eval()
    monkeypatch.setattr(planning, "largest_within", lambda family, *_: (0.196, family(0.196)))
    before, seeds = model[2].weight.detach(), 30
    total = torch.zeros_like(before)
    for seed in range(seeds):
        result = compressed(model, variant="random", seed=seed)
        group = result.plan.groups[0]
        total[:, group.kept] += result.model[2].weight.detach()
    probabilities = torch.tensor(group.scores) / sum(group.scores)
    spread = ((1 / probabilities - 1) / group.draws / seeds).sqrt()
    assert 4 < group.draws < 40
    assert bool((((total / seeds) / before - 1).abs().amax((0, 2, 3)) < 4 * spread).all())
    assert bool((spread < 0.3).all())


READ = """
import json, sys, torch, foldflat
from safetensors.torch import load_file, save_file
sys.path.insert(0, sys.argv[2])
from tests.model.nets import NETS
for name, folder in json.load(open(sys.argv[1])).items():
    model = foldflat.load(folder, model=NETS[name]())
    assert not model.training
    with torch.no_grad():
        save_file({"outputs": model(load_file(folder + "/../inputs.safetensors")["x"])}, folder + ".outputs")
    foldflat.save(model, folder + "-again")
    first, again = (json.load(open(place + "/foldflat.json")) for place in (folder, folder + "-again"))
    assert first["pruned"] == again["pruned"]
"""


def trained(model: nn.Module) -> nn.Module:
    """Move weights as training does, in a repeatable way."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return model


def test_folders_give_the_same_bits_in_a_new_process(tmp_path: Path) -> None:
    """After training and one or two rounds of pruning, with the user's own class; saved again, they say the same."""
    save_file({"x": BATCH}, tmp_path / "inputs.safetensors")
    expected, folders = {}, {}
    for name in ("residual", "grouped", "scaled, weights shared"):
        result = compressed(built(name), 0.7, method="reconstruction")
        trained(result.model)
        if name in ("residual", "grouped"):
            first = result.report["parameters_after"]
            result = compressed(result.model, 0.6, method="l1")
            assert result.report["parameters_before"] == first
            trained(result.model)
        folders[name] = str(tmp_path / name.replace(" ", "-"))
        foldflat.save(result, folders[name])
        with torch.no_grad():
            expected[name] = result.model(BATCH)
    (tmp_path / "folders.json").write_text(json.dumps(folders))
    in_new_process(READ, tmp_path / "folders.json", ROOT)
    for name, folder in folders.items():
        assert torch.equal(load_file(folder + ".outputs")["outputs"], expected[name]), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a pruned residual network."""
    path = tmp_path_factory.mktemp("pruned") / "saved"
    foldflat.save(compressed(built("residual")), path)
    return path


def test_a_folder_needs_an_instance_of_its_class(folder: Path) -> None:
    """None, another class, or another width."""
    with pytest.raises(
        PlanMismatchError, match=r"holds a Head, a class of your own; hint: foldflat.load\(path, model=Head"
    ):
        foldflat.load(folder)
    with pytest.raises(PlanMismatchError, match="Plain does not fit"):
        foldflat.load(folder, model=NETS["plain"]())
    with pytest.raises(PlanMismatchError, match="Head does not fit"):
        foldflat.load(folder, model=NETS["grouped"]())


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    """Weights cut short, or gone."""
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "model.foldflat.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="differs from what was saved"):
        foldflat.load(tmp_path / "copy", model=NETS["residual"]())
    file.unlink()
    with pytest.raises(CheckpointError, match=r"lacks model.foldflat.safetensors"):
        foldflat.load(tmp_path / "copy", model=NETS["residual"]())


def test_a_network_that_was_not_pruned_is_no_folder(tmp_path: Path) -> None:
    """There is nothing of ours in it."""
    with pytest.raises(PlanMismatchError, match="was not pruned"):
        foldflat.save(built("plain"), tmp_path / "saved")


def test_dense_copies_stay_pruned(tmp_path: Path) -> None:
    """Nothing to make dense, and the layout travels."""
    result = compressed(built("plain"))
    dense = result.to_dense()
    assert same(dense, result.model)
    foldflat.save(dense, tmp_path / "saved")
    assert same(foldflat.load(tmp_path / "saved", model=NETS["plain"]()), result.model)


FOLDERS_AND_CLASSES = """
import sys, torch, transformers
kinds = transformers.AutoModelForImageClassification, transformers.AutoModel, transformers.ResNetForImageClassification
refused = [(folder + end, kind) for folder in sys.argv[1:] for end in ("", "-again") for kind in kinds[:2]]
"""

READ_AND_SAVE_AGAIN = """
for folder in sys.argv[1:]:
    x = load_file(folder + "/../inputs.safetensors")["x"]
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    base = transformers.AutoModel.from_pretrained(folder)
    model.save_pretrained(folder + "-again")
    again = transformers.ResNetForImageClassification.from_pretrained(folder + "-again")
    with torch.no_grad():
        found = {"logits": model(x).logits, "again": again(x).logits, "pooled": base(x).pooler_output}
    save_file(found, folder + ".out")
    assert foldflat.load(folder).config.quantization_config.pruned == again.config.quantization_config.pruned
"""


def test_transformers_models_give_the_same_bits_and_fail_without_foldflat(tmp_path: Path) -> None:
    """With and without head, saved again, after one round and after two, in new processes."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[12, 16], depths=[1, 2], num_labels=3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.ResNetForImageClassification(config).eval()
    batch = {"pixel_values": images(4, size=32)}
    save_file({"x": batch["pixel_values"]}, tmp_path / "inputs.safetensors")
    folders, expected = [], {}
    for number in (1, 2):
        recipe = foldflat.FilterRecipe(0.7, method="reconstruction")
        result = foldflat.compress(model, recipe, batch)
        model = trained(result.model)
        folders.append(str(tmp_path / f"round-{number}"))
        foldflat.save(result, folders[-1])
        with torch.no_grad():
            outputs = model(**batch, output_hidden_states=True)
            expected[folders[-1]] = (outputs.logits, model.resnet(**batch).pooler_output)
    assert model.config.quantization_config.tables == []
    read_with_transformers(FOLDERS_AND_CLASSES, READ_AND_SAVE_AGAIN, *folders)
    for folder, (logits, pooled) in expected.items():
        found = load_file(folder + ".out")
        assert torch.equal(found["logits"], logits)
        assert torch.equal(found["again"], logits)
        assert torch.equal(found["pooled"], pooled)
