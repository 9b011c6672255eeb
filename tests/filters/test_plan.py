"""Check that plans survive JSON and are refused where they do not fit."""

import json

import pytest
from tests.filters.wide import MODEL, built, planned
from tests.model.nets import Residual
from torch import nn

import foldflat
from foldflat.errors import (
    FormatVersionError,
    PlanMismatchError,
)


def test_a_plan_survives_json() -> None:
    """Word for word, a line for each group, strict JSON."""
    for settings in ({"variant": "random"}, {"compensate": True}, {"method": "reconstruction"}):
        plan = planned(keep_ratio=0.5, **settings)
        text = plan.to_json()
        assert foldflat.FilterPlan.from_json(text) == plan
        assert json.loads(text) == json.loads(json.dumps(plan.to_dict(), allow_nan=False))
        assert len(text.splitlines()) < 60
        assert len(text) < 40_000
        assert plan.recipe_object().to_dict() == plan.recipe


def test_a_plan_of_a_newer_format_is_refused() -> None:
    """With what to do."""
    values = planned(keep_ratio=0.5).to_dict()
    with pytest.raises(FormatVersionError, match=r"format 99, this foldflat reads up to 1; hint: upgrade"):
        foldflat.FilterPlan.from_dict({**values, "format": 99})


def test_a_plan_of_another_family_is_refused() -> None:
    """By name."""
    with pytest.raises(PlanMismatchError, match=r"the plan is of family None, not \"filters\""):
        foldflat.FilterPlan.from_dict({"format": 1, "tables": []})


def test_a_plan_for_another_architecture_is_refused_and_for_other_weights_warned_of() -> None:
    """By the first tensor that differs."""
    plan = planned(keep_ratio=0.5, method="l1")
    with pytest.raises(PlanMismatchError, match=r"the plan is for a network whose `body.inner.0.weight` is \(96, 128"):
        foldflat.apply(built(body=Residual, width=10), plan)
    with pytest.raises(PlanMismatchError, match=r"whose `0.bias` is absent, Sequential's is \(4,\)"):
        foldflat.apply(nn.Sequential(nn.Conv2d(3, 4, 1)), plan)
    result = foldflat.apply(built(seed=1), plan)
    assert result.report["warnings"] == ["Head has other weights than those the plan was made for"]
    assert foldflat.apply(MODEL, plan).report["warnings"] == []
