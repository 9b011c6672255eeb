"""What layers do to channels: convolutions, linear layers, norms."""

import math

import numpy as np
from torch import fx, nn

from foldflat.model.channels.groups import Layer
from foldflat.model.channels.values import Ids, Tracked
from foldflat.model.channels.walk import Rule, Value, Walk, arguments_of, module_of, shape_of

__all__ = ["LAYER_RULES"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def _layer_of(walk: Walk, weight: fx.Node) -> tuple[str, str] | None:
    """Return the names of the weight and of the layer that owns it, None for what is no ordinary layer's."""
    name = walk.parameter(weight)
    if name is None or not isinstance(walk.module(name.rpartition(".")[0]), _LAYERS):
        return None
    return name, name.rpartition(".")[0]


def _convolution(walk: Walk, node: fx.Node) -> Value:
    given = arguments_of(node)
    found = _layer_of(walk, given["weight"])
    if found is None:
        walk.block(node, "whose weight belongs to no layer of torch.nn")
        return None
    weight, layer = found
    value = walk.value(given["input"])
    if value is not None and value.axis != 1:
        walk.block(node, "which reads another axis")
        return None
    groups, transposed = given["groups"], "transpose" in str(node.target)
    shape = shape_of(given["weight"])
    within, per_group = (shape[1], shape[0] // groups) if not transposed else (shape[0] // groups, shape[1])
    inputs = None if value is None else value.ids
    positions = math.prod(shape_of(given["input"] if transposed else node)[2:])
    if groups > 1 and within == 1 and (per_group == 1 or not transposed):
        outputs = None if inputs is None else np.repeat(inputs, per_group)
        if outputs is not None:
            walk.label(weight, 0, outputs)
        op = "depthwise"
    else:
        outputs = _dense(walk, (weight, transposed), inputs, groups, per_group)
        op = "dense"
    walk.add_layer(Layer(layer, op, inputs, outputs, positions))  # type: ignore[arg-type]
    return _with_bias(walk, given["bias"], outputs, 1)


def _dense(walk: Walk, weight: tuple[str, bool], inputs: Ids | None, groups: int, per_group: int) -> Ids:
    """Label a weight of which every output reads every input of its group; return the output channels."""
    name, transposed = weight
    if inputs is not None:
        rows = inputs.reshape(groups, -1)
        for row in rows[1:]:
            walk.channels.join(rows[0], row, f"the {groups} groups of `{name.rpartition('.')[0]}` keep equal sizes")
        walk.label(name, 1 - transposed, inputs if transposed else rows[0])
    if transposed:
        return np.tile(walk.labelled(name, 1, per_group), groups)
    new = (name, 0) not in walk.labels
    outputs = walk.labelled(name, 0, groups * per_group)
    if new:
        rows = outputs.reshape(groups, -1)
        for row in rows[1:]:
            walk.channels.join(rows[0], row, f"the {groups} groups of `{name.rpartition('.')[0]}` keep equal sizes")
    return outputs


def _with_bias(walk: Walk, bias: object, outputs: Ids | None, axis: int) -> Tracked | None:
    if outputs is None:
        return None
    name = walk.parameter(bias)
    if name is not None:
        walk.label(name, 0, outputs)
    return Tracked(axis, outputs)


def _linear(walk: Walk, node: fx.Node) -> Value:
    given = arguments_of(node)
    value = walk.value(given["input"])
    shape = shape_of(node)
    last = len(shape) - 1
    if value is not None and value.axis != last:
        return value  # it mixes another axis
    found = _layer_of(walk, given["weight"])
    if found is None:
        walk.block(node, "whose weight belongs to no layer of torch.nn")
        return None
    weight, layer = found
    inputs = None if value is None else value.ids
    if inputs is not None:
        walk.label(weight, 1, inputs)
    outputs = walk.labelled(weight, 0, shape[-1])
    walk.add_layer(Layer(layer, "dense", inputs, outputs, math.prod(shape[1:-1])))  # type: ignore[arg-type]
    return _with_bias(walk, given["bias"], outputs, last)


def _channel_norm(walk: Walk, node: fx.Node) -> Value:
    """Follow a norm with statistics of each channel alone."""
    given = arguments_of(node)
    value = walk.value(given["input"])
    if value is None:
        return None
    if value.axis != 1:
        walk.block(node, "which reads another axis")
        return None
    _label_norm(walk, node, value)
    return value


def _label_norm(walk: Walk, node: fx.Node, value: Tracked) -> None:
    given = arguments_of(node)
    for key in ("weight", "bias", "running_mean", "running_var"):
        name = walk.parameter(given.get(key))
        if name is not None:
            walk.label(name, 0, value.ids)
    if module_of(node):
        weight = walk.parameter(given["input"].args[1]) if len(given["input"].args) > 1 else None
        source = (weight or "").rpartition(".")[0]
        walk.add_layer(Layer(module_of(node), "norm", value.ids, value.ids, 0, source))  # type: ignore[arg-type]


def _group_norm(walk: Walk, node: fx.Node) -> Value:
    given = arguments_of(node)
    value = walk.value(given["input"])
    if value is None:
        return None
    groups = given["num_groups"]
    if value.axis != 1 or groups == 1:
        walk.block(node, "which takes its statistics over these channels")
        return None if value.axis != 1 else value
    rows = value.ids.reshape(groups, -1)
    for column in rows.T[1:]:
        walk.channels.join(rows[:, 0], column, f"each norm group of `{module_of(node)}` stays whole or goes")
    _label_norm(walk, node, value)
    return value


def _layer_norm(walk: Walk, node: fx.Node) -> Value:
    given = arguments_of(node)
    value = walk.value(given["input"])
    if value is not None and value.axis >= len(shape_of(node)) - len(given["normalized_shape"]):
        walk.block(node, "which takes its statistics over these channels")
    return value


LAYER_RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    "linear": _linear,
    "batch_norm": _channel_norm,
    "instance_norm": _channel_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
}
