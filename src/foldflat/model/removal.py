"""Take channels out of a network: smaller tensors in the same modules, or zeros in their place."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from foldflat.model.channels import ChannelMap, Layer, named_tensors

__all__ = ["attributes_after", "remove_channels", "resized", "set_attributes", "zero_channels"]

Attributes = dict[str, dict[str, int]]


def remove_channels(model: nn.Module, kept: Mapping[tuple[str, int], Tensor], attributes: Attributes) -> nn.Module:
    """Return a smaller copy of a network.

    Args:
        model: left as it is.
        kept: by tensor name and axis, the positions that stay.
        attributes: by module name, what `attributes_after` says.
    """
    tensors = named_tensors(model)
    memo: dict[int, Any] = {}
    for name in {name for name, _ in kept}:
        tensor = tensors[name]
        smaller = tensor.detach()
        for axis in range(tensor.ndim):
            if (name, axis) in kept:
                smaller = smaller.index_select(axis, kept[name, axis].to(tensor.device))
        memo[id(tensor)] = _like(tensor, smaller.clone())
    # every place that shares a tensor finds the smaller one in its stead
    pruned = copy.deepcopy(model, memo)
    set_attributes(pruned, attributes)
    return pruned


def resized(model: nn.Module, shapes: Mapping[str, list[int]], attributes: Attributes) -> nn.Module:
    """Give tensors other shapes in place, for weights that are loaded next; return the model.

    Args:
        model: a fresh network of the original size, on any device, also meta.
        shapes: by tensor name.
        attributes: by module name, what `attributes_after` says.
    """
    tensors = named_tensors(model)
    new = {id(tensors[name]): _like(tensors[name], tensors[name].new_empty(shape)) for name, shape in shapes.items()}
    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            table.update({key: new[id(tensor)] for key, tensor in table.items() if id(tensor) in new})
    set_attributes(model, attributes)
    return model


def zero_channels(model: nn.Module, channels: ChannelMap, kept: Tensor) -> nn.Module:
    """Return a copy in which no layer reads the channels that are not kept: what a smaller network has to equal.

    Args:
        model: left as it is.
        channels: of this model.
        kept: (n_channels,) booleans.
    """
    zeroed = copy.deepcopy(model)
    for layer in channels.layers.values():
        if layer.op != "dense" or layer.inputs is None:
            continue
        module = zeroed.get_submodule(layer.name)
        weight: Any = module.weight
        axis = 0 if _is_transposed(module) else 1
        ids = channels.axes[f"{layer.name}.weight", axis]
        gone = (~kept[ids]).nonzero()[:, 0].to(weight.device)
        weight.data.index_fill_(axis, gone, 0.0)
    return zeroed


def attributes_after(model: nn.Module, channels: ChannelMap, kept: Tensor) -> Attributes:
    """Return by module the attributes that follow from the channels `kept` (n_channels,): widths and groups."""
    found = {}
    for layer in channels.layers.values():
        module = model.get_submodule(layer.name)
        values = _attributes(module, layer, _left(layer.inputs, kept), _left(layer.outputs, kept))
        changed = {name: value for name, value in values.items() if value != getattr(module, name)}
        if changed:
            found[layer.name] = changed
    return found


def set_attributes(model: nn.Module, attributes: Attributes) -> None:
    """Set what `attributes_after` said."""
    for name, values in attributes.items():
        for key, value in values.items():
            setattr(model.get_submodule(name), key, value)


def _attributes(module: nn.Module, layer: Layer, inputs: int | None, outputs: int | None) -> dict[str, int]:
    if isinstance(module, nn.Linear):
        values = {"in_features": inputs, "out_features": outputs}
    elif layer.op == "norm":
        values = _norm_attributes(module, inputs or 0)
    else:
        values = {"in_channels": inputs, "out_channels": outputs}
        if layer.op == "depthwise":
            values["groups"] = inputs
    return {name: value for name, value in values.items() if value is not None}


def _norm_attributes(module: nn.Module, size: int) -> dict[str, int | None]:
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": size, "num_groups": module.num_groups * size // module.num_channels}
    return {"num_features": size} if hasattr(module, "num_features") else {}


def _left(ids: Tensor | None, kept: Tensor) -> int | None:
    return None if ids is None else int(kept[ids].sum())


def _like(tensor: Tensor, smaller: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(smaller, requires_grad=tensor.requires_grad)
    return smaller


def _is_transposed(module: nn.Module) -> bool:
    return bool(getattr(module, "transposed", False))
