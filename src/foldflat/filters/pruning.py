"""Do what a plan says: a smaller network, whole or empty for weights that are loaded next."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from foldflat.errors import PlanMismatchError
from foldflat.filters.plan import FilterPlan
from foldflat.model.channels import named_tensors
from foldflat.model.removal import remove_channels
from foldflat.model.size import state_sha256

__all__ = ["check_fits_network", "layout_after", "prune", "pruning_report"]


def prune(model: nn.Module, plan: FilterPlan) -> nn.Module:
    """Return a smaller copy of a network: a plain module of the same class.

    Args:
        model: left as it is.
        plan: made for a network of these shapes.

    Raises:
        PlanMismatchError: the plan is for another architecture.
    """
    _check_shapes(plan, model)
    kept = {
        (name, int(axis)): torch.tensor(plan.patterns[pattern])
        for name, axes in plan.axes.items()
        for axis, pattern in axes.items()
    }
    pruned = remove_channels(model, kept, plan.attributes)
    tensors = named_tensors(pruned)
    with torch.no_grad():
        for name, weight in plan.refits.items():
            tensors[name].copy_(_of_kept(weight, name, kept))
        for name, scale in plan.scales.items():
            shape = [1] * tensors[name].ndim
            shape[scale["axis"]] = -1
            tensors[name].mul_(_as(scale["values"], tensors[name]).reshape(shape))
        for name, shift in plan.shifts.items():
            tensors[name].add_(_of_kept(_as(shift, tensors[name]), name, kept))
    return pruned


def check_fits_network(plan: FilterPlan, model: nn.Module) -> list[str]:
    """Compare a plan with a network; return a warning where the weights are not those planned for.

    Raises:
        PlanMismatchError: a tensor is missing, new, or of another shape.
    """
    _check_shapes(plan, model)
    if state_sha256(named_tensors(model)) != plan.sha256:
        return [f"{type(model).__name__} has other weights than those the plan was made for"]
    return []


def pruning_report(plan: FilterPlan, warnings: list[str]) -> dict[str, Any]:
    """Return what a plan predicts, in the form of a result's report."""
    sizes = {
        f"{name}_{when}": values[key]
        for key, name in (("parameters", "parameters"), ("macs", "macs"), ("bytes", "size_bytes"))
        for when, values in (("before", plan.sizes_before), ("after", plan.sizes_after))
    }
    groups = [{**asdict(group), "keep_ratio": group.keep_ratio} for group in plan.groups]
    for group in groups:
        for name in ("kept", "scores", "factors"):
            del group[name]
    return {
        **sizes,
        "keep_ratio": plan.keep_ratio,
        "groups": groups,
        "whole": plan.whole,
        "blocked": plan.blocked,
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "examples": plan.examples,
        "recipe": plan.recipe,
        "warnings": [*plan.notes, *warnings],
    }


def layout_after(plan: FilterPlan, before: dict[str, Any] | None) -> dict[str, Any]:
    """Return by how much a pruned network differs from a fresh one: shapes by tensor, attributes by module.

    Args:
        plan: of the last pruning.
        before: this of the network that it pruned, None where that was a fresh one.
    """
    before = before or {"shapes": {}, "attributes": {}}
    attributes = {name: dict(values) for name, values in before["attributes"].items()}
    for name, values in plan.attributes.items():
        attributes.setdefault(name, {}).update(values)
    return {"shapes": {**before["shapes"], **plan.shapes_after()}, "attributes": attributes}


def _check_shapes(plan: FilterPlan, model: nn.Module) -> None:
    found = {name: list(tensor.shape) for name, tensor in named_tensors(model).items()}
    for name in sorted(found.keys() | plan.shapes.keys()):
        if found.get(name) != plan.shapes.get(name):
            raise PlanMismatchError(
                f"the plan is for a network whose `{name}` is {_shape(plan.shapes.get(name))}, "
                f"{type(model).__name__}'s is {_shape(found.get(name))}; hint: plan again for this network"
            )


def _of_kept(tensor: Tensor, name: str, kept: dict[tuple[str, int], Tensor]) -> Tensor:
    for axis in range(tensor.ndim):
        if (name, axis) in kept:
            tensor = tensor.index_select(axis, kept[name, axis].to(tensor.device))
    return tensor


def _shape(shape: list[int] | None) -> str:
    return "absent" if shape is None else str(tuple(shape))


def _as(values: list[float], tensor: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).to(tensor)
