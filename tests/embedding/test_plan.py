"""Check that a plan says what will be done, travels as JSON, and refuses models it was not made for."""

import json

import pytest
import torch
from tests.tiny import planted_table
from torch import nn

import foldflat
from foldflat import EmbeddingPlan, EmbeddingRecipe
from foldflat.errors import FormatVersionError, PlanMismatchError

RECIPE = EmbeddingRecipe(keep_ratio=0.7, n_subspaces=2)


def _model(seed: int = 0, n: int = 90) -> nn.Module:
    tables = [planted_table(n, 12, 3, 4, seed=seed)[0], planted_table(50, 8, 2, 2, seed=seed + 1)[0]]
    return nn.ModuleDict(
        {name: nn.Embedding.from_pretrained(table) for name, table in zip(("first", "second"), tables, strict=True)}
    )


@pytest.mark.parametrize("method", ["subspaces", "svd", "int8", "int4", "auto"])
def test_a_plan_from_json_gives_the_same_result(method: str) -> None:
    """Fitted again with its seed: the same assignments, and every other tensor bit for bit."""
    model = _model()
    settings = {"keep_ratio": 0.7, "seed": 5} if method in ("subspaces", "svd") else {"n_subspaces": 2}
    plan = foldflat.plan(model, EmbeddingRecipe(method=method, include=("first", "sec*"), exclude="x", **settings))
    read = EmbeddingPlan.from_json(plan.to_json())
    assert not read.fits
    assert read.to_dict() == json.loads(plan.to_json())
    direct, replayed = foldflat.apply(model, plan).model.state_dict(), foldflat.apply(model, read).model.state_dict()
    assert direct.keys() == replayed.keys()
    for name, tensor in direct.items():
        assert torch.equal(tensor, replayed[name]), name


def test_a_plan_says_what_will_come_out() -> None:
    """Names, shapes, sizes and errors are those of the result, and the model is not needed to read them."""
    model = _model()
    plan = foldflat.plan(model, RECIPE)
    result = foldflat.apply(model, plan)
    stated = json.loads(plan.to_json())["tables"]
    assert [table["names"] for table in stated] == [["first"], ["second"]]
    assert [table["shape"] for table in stated] == [[90, 12], [50, 8]]
    for table, name in zip(stated, ("first", "second"), strict=True):
        module = result.model[name]
        assert table["size_bytes_after"] == module.size_bytes
        assert table["parameters_after"] == module.parameters_stored
        assert table["spec"] == module.spec()
        lost = (model[name].weight - module.to_dense()).square().sum() / model[name].weight.square().sum()
        assert table["energy_lost"] == pytest.approx(float(lost), rel=1e-4)
    for sum_of in ("parameters_before", "parameters_after", "size_bytes_before", "size_bytes_after"):
        assert result.report[sum_of] == sum(table[sum_of] for table in stated)


def test_a_plan_of_a_long_table_is_short() -> None:
    """Nothing in the JSON grows with the rows, so it stays far below a megabyte."""
    generator, recipe = torch.Generator().manual_seed(0), EmbeddingRecipe(n_subspaces=8, free_ranks=False)
    lengths = [len(foldflat.plan(torch.randn(n, 4, generator=generator), recipe).to_json()) for n in (200, 20_000)]
    assert lengths[1] < lengths[0] + 300 < 5000


def test_applying_twice_gives_models_that_share_nothing() -> None:
    """A plan keeps its fits: what is trained in one result leaves the next one alone."""
    model = _model()
    plan = foldflat.plan(model, RECIPE)
    first = foldflat.apply(model, plan).model
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    for tensor in first.state_dict().values():
        tensor.zero_()
    second = foldflat.apply(model, plan).model.state_dict()
    assert all(torch.equal(second[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("as_json", [False, True])
def test_other_weights_are_compressed_and_said_to_be_others(as_json: bool) -> None:
    """The report warns by name, and its errors are those of the weights at hand."""
    other = _model()
    with torch.no_grad():
        other["first"].weight += 0.5
    plan = foldflat.plan(_model(), RECIPE)
    result = foldflat.apply(other, EmbeddingPlan.from_json(plan.to_json()) if as_json else plan)
    assert result.report["warnings"] == ["table `first` has other weights than those the plan was made for"]
    for entry, name in zip(result.report["tables"], ("first", "second"), strict=True):
        lost = (other[name].weight - result.model[name].to_dense()).square().sum()
        share = float(lost / other[name].weight.square().sum())
        assert entry["energy_lost"] == pytest.approx(share, rel=1e-3)
    assert not foldflat.apply(_model(), plan).report["warnings"]


def test_other_names_and_shapes_are_refused() -> None:
    """Before anything is made."""
    plan = foldflat.plan(_model(), RECIPE)
    with pytest.raises(PlanMismatchError, match=r"plan is for `first` of shape \[90, 12\], the model's is \[80, 12\]"):
        foldflat.apply(_model(n=80), plan)
    with pytest.raises(PlanMismatchError, match="plan names `first`, which Sequential does not have"):
        foldflat.apply(nn.Sequential(nn.Embedding(90, 12)), plan)
    with pytest.raises(PlanMismatchError, match=r"of shape \[90, 12\], the model's is None"):
        foldflat.apply(nn.ModuleDict({"first": nn.Linear(12, 90), "second": nn.Embedding(50, 8)}), plan)
    with pytest.raises(PlanMismatchError, match="the plan is a dict"):
        foldflat.apply(_model(), plan.to_dict())  # type: ignore[arg-type]


def test_a_table_shared_otherwise_is_refused() -> None:
    """Neither may an output layer keep the weights of the model that was given, nor lose its own."""

    def language_model(tied: bool) -> nn.Module:
        table = planted_table(60, 12, 3, 4)[0]
        model = nn.ModuleDict({"table": nn.Embedding.from_pretrained(table), "head": nn.Linear(12, 60)})
        if tied:
            model["head"].weight = model["table"].weight
        return model

    for planned, given in ((True, False), (False, True)):
        plan = foldflat.plan(language_model(planned), RECIPE)
        with pytest.raises(PlanMismatchError, match="shared by"):
            foldflat.apply(language_model(given), plan)


def test_a_newer_plan_is_refused() -> None:
    """Its number is named, and what this version reads."""
    values = foldflat.plan(_model(), RECIPE).to_dict()
    with pytest.raises(FormatVersionError, match="plan has format 99, this foldflat reads up to 1"):
        EmbeddingPlan.from_dict({**values, "format": 99})


def test_what_a_plan_cannot_hold_is_asked_for_again() -> None:
    """Row weights given as numbers are not in the JSON; counts of tokens need the calibration data once more."""
    model, ids = _model(), torch.arange(30)
    plan = foldflat.plan(
        model, EmbeddingRecipe(keep_ratio=0.7, n_subspaces=2, include="first", row_weights=torch.ones(90))
    )
    with pytest.raises(PlanMismatchError, match="made with 90 numbers as row weights, which it does not hold"):
        foldflat.apply(model, EmbeddingPlan.from_json(plan.to_json()))
    recipe = EmbeddingRecipe(keep_ratio=0.7, n_subspaces=2, include="first", row_weights="auto")
    counted = foldflat.plan(model, recipe, calibration=ids)
    again = foldflat.apply(model, EmbeddingPlan.from_json(counted.to_json()), calibration=ids)
    assert torch.equal(again.model["first"].to_dense(), foldflat.apply(model, counted).model["first"].to_dense())
