"""From a recipe and a network to a plan: trace, score, decide how much of each group stays."""

import itertools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from foldflat.errors import BudgetError, DataError, RecipeError, UnsupportedModelError
from foldflat.filters.allocation import (
    Candidate,
    Choice,
    Family,
    by_epsilon,
    by_error,
    by_share,
    by_threshold,
    largest_within,
)
from foldflat.filters.bounds import delta_supported
from foldflat.filters.calibration import with_example
from foldflat.filters.compensation import mean_shifts, refits, unshifted
from foldflat.filters.plan import FilterPlan, GroupPlan
from foldflat.filters.recipe import FilterRecipe
from foldflat.filters.scoring import Scores, score_channels
from foldflat.filters.sizes import NetworkSize
from foldflat.model.channels import ChannelGroup, ChannelMap, Layer, named_tensors, trace_channels
from foldflat.model.probe import matches
from foldflat.model.removal import attributes_after
from foldflat.model.size import state_sha256
from foldflat.model.trial import kept_axes, tried
from foldflat.randomness import spawn_seeds

__all__ = ["plan_filters"]

_SLACK = 0.01
_DIGITS = 6
_FACTOR_DIGITS = 9
_MOST_DELTA = 0.5
_MOST_NAMED = 8


def plan_filters(
    model: nn.Module, recipe: FilterRecipe, calibration: Any, watch: Callable[[str], None] | None = None
) -> FilterPlan:
    """Decide which channels of a network go.

    Args:
        model: the network, left as it is.
        recipe: what is asked.
        calibration: one batch of inputs or an iterable of batches; methods without scores from data need one batch to
            trace with.
        watch: called with a line of progress.

    Raises:
        UnsupportedModelError: the network cannot be traced, or no group of channels may lose any.
        DataError: calibration data are missing or unusable, or too few for the recipe's delta.
        BudgetError: the target is below what is left with one channel in each group.
    """
    started = time.perf_counter()
    say = watch or (lambda _: None)
    say("Tracing the network")
    batches, example = with_example(model, calibration)
    channels = _excluded(tried(model, trace_channels(model, example), example), recipe)
    if not channels.free_groups:
        raise UnsupportedModelError(_nothing_free(model, channels))
    say(f"Scoring channels by {recipe.method}")
    scores = score_channels(model, channels, recipe, batches)
    delta = _delta(channels, recipe, scores)
    say("Deciding what each layer keeps")
    chosen, epsilon = _search(model, channels, recipe, scores, delta)
    kept, size = _kept(channels, chosen), NetworkSize(model, channels)
    plan = FilterPlan(
        recipe=recipe.to_dict(),
        groups=[
            _group_plan(group, choice, scores.values, recipe, epsilon)
            for group, choice in zip(channels.free_groups, chosen, strict=True)
        ],
        whole=[
            {"name": group.name, "size": len(group.channels), "reason": group.reason}
            for group in channels.groups
            if not group.is_free
        ],
        blocked=channels.blocked,
        patterns=[],
        axes={},
        scales=_scales(model, channels, chosen, kept),
        shifts=mean_shifts(model, channels, kept, scores.means),
        attributes=attributes_after(model, channels, kept),
        shapes={name: list(tensor.shape) for name, tensor in named_tensors(model).items()},
        sha256=state_sha256(named_tensors(model)),
        sizes_before=asdict(size.after(torch.ones_like(kept))),
        sizes_after=asdict(size.after(kept)),
        epsilon=epsilon,
        delta=delta if recipe.method == "pfp" else None,
        examples=scores.examples,
    )
    _fill_axes(plan, channels, kept)
    if recipe.compensate and not recipe.asked_refit:
        plan.notes = unshifted(model, channels, kept)
    if recipe.asked_refit:
        say("Fitting weights to what stays")
        plan.refits, plan.shifts = refits(model, channels, kept, scores.moments)
    plan.seconds = time.perf_counter() - started
    return plan


def _excluded(channels: ChannelMap, recipe: FilterRecipe) -> ChannelMap:
    """Mark groups that an excluded layer makes as ones that stay."""
    makers = {name for group in channels.groups for name in group.producers}
    patterns = (recipe.exclude,) if isinstance(recipe.exclude, str) else recipe.exclude
    for pattern in patterns:
        if not any(matches(name, pattern) for name in makers):
            raise RecipeError(
                f"`exclude` has {pattern!r}, which matches no layer with filters; hint: they are called "
                f"{', '.join(sorted(makers)[:_MOST_NAMED])}{', ..' if len(makers) > _MOST_NAMED else ''}"
            )
    groups = [
        ChannelGroup(g.name, g.producers, g.consumers, g.channels, g.reason or "excluded by the recipe", g.note)
        if any(matches(name, recipe.exclude) for name in g.producers)
        else g
        for g in channels.groups
    ]
    return ChannelMap(channels.n_channels, channels.axes, channels.layers, groups, channels.blocked)


def _nothing_free(model: nn.Module, channels: ChannelMap) -> str:
    reasons = "; ".join(f"`{group.name}`: {group.reason}" for group in channels.groups[:4])
    return f"no filter of {type(model).__name__} can be removed ({reasons or 'it has no convolution or linear layer'})"


def _delta(channels: ChannelMap, recipe: FilterRecipe, scores: Scores) -> float:
    """Return the probability of failure that holds: the asked one, or what the calibration data support."""
    if recipe.method != "pfp":
        return _MOST_DELTA
    widths = [len(group.channels) for group in channels.free_groups]
    # thousands of examples support less than a float holds
    supported = max(delta_supported(scores.examples, sum(widths), max(widths)), sys.float_info.min)
    if recipe.delta is None:
        return supported
    if recipe.delta < supported:
        raise DataError(
            f"`delta` is {recipe.delta:g}, but {scores.examples} calibration examples support no less than "
            f"{supported:.2g} for {sum(widths)} channels; hint: more examples, or delta=None to have it reported"
        )
    return recipe.delta


def _search(
    model: nn.Module, channels: ChannelMap, recipe: FilterRecipe, scores: Scores, delta: float
) -> tuple[list[Choice], float | None]:
    """Return what every free group keeps, and the epsilon behind it."""
    orders = [elimination.order.flip(0) for elimination in scores.eliminations]
    candidates = [
        _candidate(model, channels, group, scores.values, order)
        for group, order in itertools.zip_longest(channels.free_groups, orders)
    ]
    size = NetworkSize(model, channels)
    if recipe.asked_allocation == "error":
        prices = _prices(channels, size, recipe.measure)
        errors = [elimination.errors for elimination in scores.eliminations]
        family: Family = by_error(candidates, errors, prices, recipe.round_to)
        epsilon_of = None
    else:
        family, epsilon_of = _family(recipe, candidates, delta)

    def share(chosen: list[Choice]) -> float:
        return float(getattr(size.after(_kept(channels, chosen)), recipe.measure))

    whole = float(getattr(size.after(torch.ones(channels.n_channels, dtype=torch.bool)), recipe.measure))
    least = share(family(0.0)) / whole
    if least > recipe.keep_ratio:
        raise BudgetError(
            f"`keep_ratio` is {recipe.keep_ratio} of the {recipe.measure}, but {least:.4f} is left with the fewest "
            f"channels in every group that may lose any; hint: at least {math.ceil(least * 1e4) / 1e4}"
        )
    limit, slack = recipe.keep_ratio * whole, _SLACK * whole
    t, chosen = largest_within(family, share, limit, candidates, recipe.round_to, slack)
    return chosen, None if epsilon_of is None else epsilon_of(t)


def _family(
    recipe: FilterRecipe, candidates: list[Candidate], delta: float
) -> tuple[Family, Callable[[float], float] | None]:
    if recipe.asked_allocation == "epsilon":
        seeds = spawn_seeds(recipe.seed, len(candidates))
        return by_epsilon(candidates, recipe.variant, min(delta, _MOST_DELTA), recipe.round_to, seeds)
    build = by_share if recipe.asked_allocation == "uniform" else by_threshold
    return build(candidates, recipe.round_to), None


def _prices(channels: ChannelMap, size: NetworkSize, measure: str) -> list[float]:
    """Return what the network loses with one channel of each free group."""
    every = torch.ones(channels.n_channels, dtype=torch.bool)
    whole, found = getattr(size.after(every), measure), []
    for group in channels.free_groups:
        less = every.clone()
        less[group.channels[0]] = False
        found.append(float(max(1, whole - getattr(size.after(less), measure))))
    return found


def _candidate(
    model: nn.Module, channels: ChannelMap, group: ChannelGroup, scores: Tensor, order: Tensor | None
) -> Candidate:
    readers = [channels.layers[name] for name in group.consumers]
    outputs = channels.layers[group.name].outputs
    assert outputs is not None
    own = int(torch.isin(outputs, group.channels).sum())
    return Candidate(
        scores[group.channels],
        max(reader.positions for reader in readers),
        max(_kernel_area(model, reader) for reader in readers),
        own // len(group.channels),
        len(outputs) - own,
        order,
    )


def _kernel_area(model: nn.Module, layer: Layer) -> int:
    """Return the numbers of one channel that an output reads at once."""
    size = getattr(model.get_submodule(layer.name), "kernel_size", None)
    if size is not None:
        return math.prod(size)
    assert layer.inputs is not None
    return len(layer.inputs) // len(layer.inputs.unique())


def _kept(channels: ChannelMap, chosen: list[Choice]) -> Tensor:
    """Return (n_channels,) which channels stay."""
    kept = torch.ones(channels.n_channels, dtype=torch.bool)
    for group, choice in zip(channels.free_groups, chosen, strict=True):
        kept[group.channels] = False
        kept[group.channels[choice.kept]] = True
    return kept


def _group_plan(
    group: ChannelGroup, choice: Choice, scores: Tensor, recipe: FilterRecipe, epsilon: float | None
) -> GroupPlan:
    own = scores[group.channels]
    plan = GroupPlan(
        group.name,
        list(group.producers),
        list(group.consumers),
        len(own),
        choice.kept.tolist(),
        _rounded(own, _DIGITS),
        note=group.note,
    )
    if bool((choice.factors != 1).any()):
        plan.factors = _rounded(choice.factors, _FACTOR_DIGITS)
    if recipe.method == "pfp":
        plan.total_sensitivity = float(own.sum())
        plan.draws = choice.draws
        plan.dropped_sensitivity = max(0.0, float(own.sum() - own[choice.kept].sum()))
        drawn = recipe.variant != "deterministic" and choice.draws > 0
        bound = epsilon if drawn else plan.dropped_sensitivity
        plan.bound_holds = bound is not None and bound < 1
    return plan


def _scales(model: nn.Module, channels: ChannelMap, chosen: list[Choice], kept: Tensor) -> dict[str, dict[str, Any]]:
    """Return by weight of a reading layer the factors of the channels that stay, where any is not 1."""
    factors = torch.ones(channels.n_channels, dtype=torch.float64)
    for group, choice in zip(channels.free_groups, chosen, strict=True):
        factors[group.channels[choice.kept]] = choice.factors
    found = {}
    for name, layer in channels.layers.items():
        axis = 0 if getattr(model.get_submodule(name), "transposed", False) else 1
        ids = channels.axes.get((f"{name}.weight", axis))
        if layer.op != "dense" or layer.inputs is None or ids is None:
            continue
        values = factors[ids][kept[ids]]
        if bool((values != 1).any()):
            found[f"{name}.weight"] = {"axis": axis, "values": _rounded(values, _FACTOR_DIGITS)}
    return found


def _rounded(values: Tensor, digits: int) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values.tolist()]


def _fill_axes(plan: FilterPlan, channels: ChannelMap, kept: Tensor) -> None:
    numbers: dict[tuple[int, ...], int] = {}
    for (name, axis), positions in kept_axes(channels, kept).items():
        pattern = positions.tolist()
        number = numbers.setdefault(tuple(pattern), len(plan.patterns))
        if number == len(plan.patterns):
            plan.patterns.append(pattern)
        plan.axes.setdefault(name, {})[str(axis)] = number
