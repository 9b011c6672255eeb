"""Fit a plan's weights again: what its JSON leaves out, from calibration data."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foldflat.errors import PlanMismatchError
from foldflat.filters.calibration import with_example
from foldflat.filters.compensation import refits
from foldflat.filters.covariances import measure_moments
from foldflat.filters.plan import FilterPlan
from foldflat.model.channels import ChannelMap, trace_channels
from foldflat.model.trial import kept_axes

__all__ = ["fitted_again"]


def fitted_again(model: nn.Module, plan: FilterPlan, calibration: Any) -> FilterPlan:
    """Return a plan that keeps the same channels, with weights fitted to this network and these data.

    The same network and data give the same weights, bit for bit.

    Args:
        model: left as it is.
        plan: its recipe asks for `refit`.
        calibration: as for `foldflat.plan`.

    Raises:
        PlanMismatchError: no calibration data are given, or the network's channels are tied in another way.
        DataError: they are unusable.
    """
    if calibration is None:
        raise PlanMismatchError(
            f"the plan fits {type(model).__name__}'s weights to what stays of it (`refit`), and fits for these weights "
            "are not at hand: a plan's JSON does not hold them\n"
            "hint: foldflat.apply(model, plan, calibration) fits again, or plan with refit=False"
        )
    batches, example = with_example(model, calibration)
    channels = trace_channels(model, example)
    kept = _kept(plan, channels)
    recipe = plan.recipe_object()
    moments, _ = measure_moments(model, channels, ~kept, batches, recipe.seed)
    weights, shifts = refits(model, channels, kept, moments)
    return replace(plan, refits=weights, shifts=shifts)


def _kept(plan: FilterPlan, channels: ChannelMap) -> Tensor:
    """Return (n_channels,) which channels stay, as the plan's tensors say."""
    kept = torch.ones(channels.n_channels, dtype=torch.bool)
    for (name, axis), ids in channels.axes.items():
        number = plan.axes.get(name, {}).get(str(axis))
        if number is not None:
            gone = torch.ones(len(ids), dtype=torch.bool)
            gone[plan.patterns[number]] = False
            kept[ids[gone]] = False
    found = {(name, str(axis)): positions.tolist() for (name, axis), positions in kept_axes(channels, kept).items()}
    planned = {(name, axis): plan.patterns[number] for name, axes in plan.axes.items() for axis, number in axes.items()}
    if found != planned:
        name = min(key[0] for key in found.keys() | planned.keys() if found.get(key) != planned.get(key))
        raise PlanMismatchError(
            f"the plan does not keep the channels of `{name}` together with those of other layers as this network "
            "ties them; hint: plan again for this network"
        )
    return kept
