"""Check plans: targets met, nested, repeatable, and what bounds and budgets say."""

import itertools
import json

import pytest
import torch
from tests.filters.wide import BATCH, MODEL, built, kept_of, planned
from tests.model.nets import Residual, conv, images, norm_like_trained
from torch import Tensor, nn

import foldflat
from foldflat.errors import (
    BudgetError,
    DataError,
    RecipeError,
    UnsupportedModelError,
)
from foldflat.filters.recipe import METHODS
from foldflat.randomness import torch_generator

ALLOCATIONS = {"pfp": ("epsilon", "uniform", "threshold"), "reconstruction": ("error", "uniform", "threshold")}
PAIRS = [(method, how) for method in METHODS for how in ALLOCATIONS.get(method, ("uniform", "threshold"))]
MEASURES = ("parameters", "macs", "bytes")


@pytest.mark.parametrize(("method", "allocation"), PAIRS)
def test_every_method_meets_its_target_and_keeps_less_of_the_same(method: str, allocation: str) -> None:
    """Within a hundredth, never above; a smaller target keeps a part of what a larger one keeps."""
    before = {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}
    larger: list[set[int]] = []
    for keep_ratio in (0.61, 0.4):
        plan = planned(method=method, allocation=allocation, keep_ratio=keep_ratio)
        larger = larger or kept_of(plan)
        assert keep_ratio - 0.01 <= plan.keep_ratio <= keep_ratio
        assert all(smaller <= more for smaller, more in zip(kept_of(plan), larger, strict=True))
        larger = kept_of(plan)
    assert all(torch.equal(before[name], tensor) for name, tensor in MODEL.state_dict().items())


@pytest.mark.parametrize("method", ["pfp", "reconstruction", "l1"])
def test_a_small_net_comes_as_close_as_a_channel_is_large(method: str) -> None:
    """Channels that are not due yet fill what a large one leaves; nothing that fits is left."""
    model = built(body=Residual, width=10)
    for keep_ratio in (0.8, 0.61, 0.4):
        plan = planned(model=model, method=method, keep_ratio=keep_ratio)
        assert keep_ratio - 0.035 <= plan.keep_ratio <= keep_ratio


@pytest.mark.parametrize(("method", "measure"), list(itertools.product(("pfp", "reconstruction", "l1"), MEASURES)))
def test_each_measure_is_what_the_target_is_met_in(method: str, measure: str) -> None:
    """What is predicted is what the result takes."""
    result = foldflat.compress(MODEL, foldflat.FilterRecipe(0.5, method=method, measure=measure), BATCH)
    assert 0.49 <= result.plan.keep_ratio <= 0.5
    assert result.report["parameters_after"] == sum(parameter.numel() for parameter in result.model.parameters())
    assert result.report["size_bytes_after"] == result.report["model_size_bytes_after"]


@pytest.mark.parametrize("variant", ["random", "hybrid"])
def test_drawn_channels_meet_the_target_as_far_as_draws_allow(variant: str) -> None:
    """Never above; a seed gives the same plan again, another seed another one."""
    plan = planned(keep_ratio=0.5, variant=variant, seed=1)
    assert 0.45 <= plan.keep_ratio <= 0.5
    assert plan.scales
    assert planned(keep_ratio=0.5, variant=variant, seed=1) == plan
    assert kept_of(planned(keep_ratio=0.5, variant=variant, seed=2)) != kept_of(plan)


@pytest.mark.parametrize(
    ("method", "variant", "round_to"),
    [(method, "deterministic", multiple) for method in METHODS for multiple in (1, 7)] + [("pfp", "random", 1)],
)
def test_keeping_everything_is_the_identity(method: str, variant: str, round_to: int) -> None:
    """Bit for bit, whatever the method, and where no number is divisible."""
    recipe = foldflat.FilterRecipe(1.0, method=method, variant=variant, round_to=round_to)
    result = foldflat.compress(MODEL, recipe, BATCH)
    assert result.plan.keep_ratio == 1
    assert not result.plan.axes
    assert torch.equal(result.model(BATCH), MODEL(BATCH))


def test_widths_are_multiples() -> None:
    """Of the layers that lose channels, and the target is met from below."""
    for method in ("l2", "pfp", "reconstruction"):
        plan = planned(method=method, keep_ratio=0.6, round_to=8)
        assert all(len(group.kept) % 8 == 0 for group in plan.groups)
        assert 0.3 < plan.keep_ratio <= 0.6


def test_seeds_decide_what_random_keeps() -> None:
    """And nothing else does."""
    first, again, other = (planned(method="random", keep_ratio=0.5, seed=seed) for seed in (1, 1, 2))
    assert kept_of(first) == kept_of(again) != kept_of(other)


def test_excluded_layers_keep_everything_and_say_so() -> None:
    """The whole group of a layer, by pattern."""
    plan = planned(keep_ratio=0.7, exclude=("body.i*",))
    assert [group.name for group in plan.groups] == ["body.stem.0", "body.wide.0"]
    assert {"name": "body.inner.0", "size": 96, "reason": "excluded by the recipe"} in plan.whole
    with pytest.raises(RecipeError, match=r"`exclude` has 'layer\*', which matches no layer .* body.inner.0"):
        planned(exclude="layer*")


def dead(name: str) -> nn.Module:
    """Return a network of which a layer makes zeros for whatever it sees."""
    model = built()
    norm = model.get_submodule(name)
    norm.weight.data.zero_()
    norm.bias.data.fill_(-1.0)
    return model


@pytest.mark.parametrize(
    ("variant", "allocation"),
    [("deterministic", how) for how in ("epsilon", "uniform", "threshold")]
    + [("random", "epsilon"), ("hybrid", "epsilon")],
)
def test_a_dead_layer_keeps_its_fewest_channels_first(variant: str, allocation: str) -> None:
    """All its sensitivities are zero, which no bound speaks of."""
    model = dead("body.inner.1")
    plan = planned(model=model, keep_ratio=0.3, allocation=allocation, variant=variant)
    group = next(group for group in plan.groups if group.name == "body.inner.0")
    assert group.total_sensitivity == 0
    assert group.bound_holds
    if allocation != "uniform":
        assert len(group.kept) == 1
    near = planned(model=model, keep_ratio=0.95, allocation=allocation, variant=variant)
    assert 0.94 <= near.keep_ratio <= 0.95


@pytest.mark.parametrize("method", ["reconstruction", "taylor", "l1"])
def test_a_dead_layer_disturbs_no_other_method(method: str) -> None:
    """Nothing becomes infinite, and all that it costs comes back at the end."""
    model = dead("body.inner.1")
    for keep_ratio in (0.3, 0.95):
        plan = planned(model=model, method=method, keep_ratio=keep_ratio)
        assert keep_ratio - 0.01 <= plan.keep_ratio <= keep_ratio
        json.dumps(plan.to_dict(), allow_nan=False)


def test_pfp_says_what_its_bound_is_worth() -> None:
    """S, epsilon, delta, draws, and whether the error that is bounded is below one."""
    plan = planned(keep_ratio=0.5)
    assert plan.epsilon is not None
    assert plan.epsilon > 1
    assert plan.delta == 1.0
    assert plan.examples == 6
    for group in plan.groups:
        assert group.total_sensitivity == pytest.approx(sum(group.scores), rel=1e-4)
        gone = set(range(group.size)) - set(group.kept)
        assert group.dropped_sensitivity == pytest.approx(sum(group.scores[j] for j in gone), rel=1e-4)
        assert group.bound_holds == (group.dropped_sensitivity < 1)
        assert group.draws >= 1
    report = foldflat.apply(MODEL, plan).report
    assert report["epsilon"] == plan.epsilon
    assert {"total_sensitivity", "bound_holds", "keep_ratio"} <= report["groups"][0].keys()
    assert planned(method="l1").epsilon is None


def test_epsilon_is_never_less_than_the_draws_support() -> None:
    """Draws are limited, so the largest targets ask for more than are made."""
    plan = planned(keep_ratio=0.999, variant="hybrid")
    assert plan.epsilon is not None
    assert plan.epsilon > 0.01


def test_delta_follows_from_the_number_of_examples() -> None:
    """Too small a one is refused with what the batch supports, which then is accepted."""
    batch = images(60, size=4)
    supported = planned(batch).delta
    assert supported is not None
    assert supported < 1e-3
    with pytest.raises(DataError, match=r"`delta` is 1e-16, but 60 .* support no less than .* for 336 channels"):
        planned(batch, delta=1e-16)
    assert planned(batch, delta=2 * supported).delta == 2 * supported


def test_thousands_of_examples_support_less_than_a_float_holds() -> None:
    """Still above zero."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    plan = foldflat.plan(model.eval(), foldflat.FilterRecipe(0.8, method="pfp"), torch.rand(2500, 1, 1, 1))
    assert plan.delta is not None
    assert 0 < plan.delta < 1e-300


def test_the_smallest_target_is_named_and_works() -> None:
    """For parameters with one channel left in each group, and for multiples."""
    for settings in ({}, {"method": "l1", "round_to": 8}, {"method": "reconstruction"}):
        with pytest.raises(BudgetError, match=r"`keep_ratio` is 0.0001 of the parameters") as caught:
            planned(keep_ratio=0.0001, **settings)
        named = float(str(caught.value).rpartition("hint: at least ")[2])
        plan = planned(keep_ratio=named, **settings)
        assert all(len(group.kept) == settings.get("round_to", 1) for group in plan.groups)


class TwoHeads(nn.Module):
    """A second output, and a first that is a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 8), conv(8, 6), conv(8, 6)
        self.first, self.second = nn.Linear(6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.first(self.left(x).mean((2, 3))), self.second(self.right(x).mean((2, 3)))


def test_layers_that_no_loss_feels_are_not_free_of_charge() -> None:
    """A single number has no Fisher information and a second output none either: outputs count alike."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = norm_like_trained(TwoHeads())
    plan = planned(model=model, method="reconstruction", keep_ratio=0.6)
    assert all(max(group.scores) > 0.01 for group in plan.groups)
    with pytest.raises(RecipeError, match=r"gives one number for each example.* hint: another method"):
        planned(model=model, method="taylor")


class Stored(nn.Module):
    """A scale for each channel that is not stored with the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 6), conv(6, 4)
        self.register_buffer("scale", torch.rand(6, 1, 1, generator=torch_generator(0)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * self.scale).mean((2, 3))


def test_what_is_not_stored_keeps_its_channels() -> None:
    """It could not be loaded in another shape."""
    with pytest.raises(UnsupportedModelError, match=r"`first.0`: they enter `mul`, whose other side has numbers"):
        planned(model=Stored().eval())
