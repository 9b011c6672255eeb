"""What operations without weights do to channels: they pass, move, are joined, put together or taken apart."""

import math
from typing import Any

import numpy as np
from torch import fx

from foldflat.model.channels.values import Ids, Tracked
from foldflat.model.channels.walk import Rule, Value, Walk, arguments_of, operation, shape_of

__all__ = ["SHAPE_RULES"]

_PASSING = """
    relu relu6 hardtanh leaky_relu prelu elu celu selu gelu silu mish sigmoid hardsigmoid hardswish tanh softplus
    exp sqrt rsqrt square abs neg clamp clamp_min clamp_max dropout feature_dropout alpha_dropout pow
    clone contiguous detach alias to _to_copy lift_fresh_copy type_as
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d
    _upsample_nearest_exact2d
"""
_JOINING = "add sub mul div maximum minimum add_relu"
_LEARNED_SLOPES = 1


def _passes(walk: Walk, node: fx.Node) -> Value:
    value = walk.value(node.args[0])
    if operation(node) == "prelu" and value is not None:
        return _prelu(walk, node, value)
    many = isinstance(node.meta["val"], (tuple, list))
    return [value, *([None] * (len(node.meta["val"]) - 1))] if many else value


def _prelu(walk: Walk, node: fx.Node, value: Tracked) -> Value:
    slopes = walk.parameter(node.args[1])
    if slopes is not None and shape_of(node.args[1])[0] > _LEARNED_SLOPES:  # type: ignore[arg-type]
        walk.label(slopes, 0, value.ids)
    return value


def _joins(walk: Walk, node: fx.Node) -> Value:
    """Follow an operation on equal entries, with broadcasting."""
    rank, found = len(shape_of(node)), None
    nodes = [given for given in node.args[:2] if isinstance(given, fx.Node)]
    for given in nodes:
        value = walk.value(given)
        if value is None or len(value.ids) == 1:
            continue
        here = Tracked(value.axis + rank - len(shape_of(given)), value.ids)
        if found is None:
            found = here
        elif found.axis != here.axis:
            walk.block(node, "which joins different axes")
            return None
        else:
            walk.channels.join(found.ids, here.ids)
    if found is None:
        return None
    for given in nodes:
        own = found.axis - rank + len(shape_of(given))
        if walk.value(given) is None and own >= 0 and shape_of(given)[own] != 1:
            walk.block(node, "whose other side has numbers of its own for each channel")
    return found


def _cat(walk: Walk, node: fx.Node) -> Value:
    parts: Any = node.args[0]
    values = [walk.value(part) for part in parts]
    known = [value for value in values if value is not None]
    if not known:
        return None
    axis, dim = known[0].axis, arguments_of(node)["dim"] % len(shape_of(node))
    if any(value.axis != axis for value in known) or (dim != axis and len(known) < len(values)):
        walk.block(node, "which puts different axes together")
        return None
    if dim != axis:
        for other in known[1:]:
            walk.channels.join(known[0].ids, other.ids)
        return known[0]
    ids: list[Ids] = []
    for part, value in zip(parts, values, strict=True):
        own = walk.channels.new(shape_of(part)[dim]) if value is None else value.ids
        if value is None:
            walk.channels.pin(own, "they are not followed")
        ids.append(own)
    return Tracked(axis, np.concatenate(ids))


def _chunk(walk: Walk, node: fx.Node) -> Value:
    """Follow a cut into equal parts, of which each has to keep as many channels."""
    value, pieces = _pieces(walk, node)
    if value is None or pieces is None:
        return pieces
    if len({len(piece.ids) for piece in pieces}) > 1:  # type: ignore[union-attr]
        walk.pin(value, f"`{operation(node)}` cuts them into unequal parts")
    else:
        for piece in pieces[1:]:  # type: ignore[index]
            walk.channels.join(pieces[0].ids, piece.ids, "equal parts keep equal sizes")  # type: ignore[index,union-attr]
    return pieces


def _split(walk: Walk, node: fx.Node) -> Value:
    value, pieces = _pieces(walk, node)
    if value is not None and isinstance(pieces, list) and pieces[0] is not value:
        walk.pin(value, "`split` cuts them at fixed places")
    return pieces


def _pieces(walk: Walk, node: fx.Node) -> tuple[Tracked | None, Value]:
    """Return the channels that are cut, None where it is another axis, and those of every part."""
    value, parts = walk.value(node.args[0]), node.meta["val"]
    if value is None:
        return None, [None] * len(parts)
    if arguments_of(node)["dim"] % len(shape_of(node.args[0])) != value.axis:  # type: ignore[arg-type]
        return None, [value] * len(parts)
    ends = np.cumsum([part.shape[value.axis] for part in parts])[:-1]
    return value, [Tracked(value.axis, ids) for ids in np.split(value.ids, ends)]


def _slice(walk: Walk, node: fx.Node) -> Value:
    given = arguments_of(node)
    value = walk.value(given["self"])
    shape = shape_of(node.args[0])  # type: ignore[arg-type]
    if value is None or given["dim"] % len(shape) != value.axis or shape == shape_of(node):
        return value
    walk.pin(value, "`slice` takes some of them by their places")
    ids = value.ids[slice(given["start"], given["end"], given["step"])]
    return Tracked(value.axis, ids)


def _select(walk: Walk, node: fx.Node) -> Value:
    given = arguments_of(node)
    value = walk.value(given["self"])
    if value is None:
        return None
    dim = given["dim"] % len(shape_of(node.args[0]))  # type: ignore[arg-type]
    if dim == value.axis:
        walk.block(node, "which takes one of them by its place")
        return None
    return Tracked(value.axis - (dim < value.axis), value.ids)


def _pad(walk: Walk, node: fx.Node) -> Value:
    value = walk.value(node.args[0])
    if value is None:
        return None
    widths: Any = node.args[1]
    place = 2 * (len(shape_of(node)) - 1 - value.axis)
    before, after = widths[place : place + 2] if place < len(widths) else (0, 0)
    if min(before, after) < 0:
        walk.block(node, "which cuts channels off")
        return None
    added = walk.channels.new(before + after)
    walk.channels.pin(added, f"the network adds {before + after} channels of zeros here, whatever is removed")
    return Tracked(value.axis, np.concatenate([added[:before], value.ids, added[before:]]))


def _reduces(walk: Walk, node: fx.Node) -> Value:
    value = walk.value(node.args[0])
    if value is None:
        return None
    given, rank = arguments_of(node), len(shape_of(node.args[0]))  # type: ignore[arg-type]
    dims = given.get("dim")
    listed = {dim % rank for dim in ([dims] if isinstance(dims, int) else dims or range(rank))}
    if value.axis in listed:
        walk.block(node, "which takes them together")
        return None
    axis = value.axis if given.get("keepdim") else value.axis - sum(dim < value.axis for dim in listed)
    result = Tracked(axis, value.ids)
    many = isinstance(node.meta["val"], (tuple, list))
    return [result] * len(node.meta["val"]) if many else result


def _softmax(walk: Walk, node: fx.Node) -> Value:
    value = walk.value(node.args[0])
    if value is not None and arguments_of(node)["dim"] % len(shape_of(node)) == value.axis:
        walk.block(node, "which takes them together")
        return None
    return value


def _permute(walk: Walk, node: fx.Node) -> Value:
    value = walk.value(node.args[0])
    if value is None:
        return None
    given, rank = arguments_of(node), len(shape_of(node))
    if operation(node) == "permute":
        order = [dim % rank for dim in given["dims"]]
    else:
        order = list(range(rank))
        first, second = given["dim0"] % rank, given["dim1"] % rank
        order[first], order[second] = second, first
    return Tracked(order.index(value.axis), value.ids)


def _reshape(walk: Walk, node: fx.Node) -> Value:
    """Follow an axis that keeps its place in memory, alone or with faster axes flattened into it."""
    value = walk.value(node.args[0])
    if value is None:
        return None
    old, new = shape_of(node.args[0]), shape_of(node)  # type: ignore[arg-type]
    slower = math.prod(old[: value.axis])
    for axis, size in enumerate(new):
        repeats, rest = divmod(size, len(value.ids))
        if math.prod(new[:axis]) == slower and not rest and repeats >= 1 and (size > 1 or len(value.ids) == 1):
            return Tracked(axis, np.repeat(value.ids, repeats))
    walk.block(node, "which takes their axis apart")
    return None


def _expand(walk: Walk, node: fx.Node) -> Value:
    value = walk.value(node.args[0])
    if value is None:
        return None
    return Tracked(value.axis + len(shape_of(node)) - len(shape_of(node.args[0])), value.ids)  # type: ignore[arg-type]


SHAPE_RULES: dict[str, Rule] = {
    **dict.fromkeys(_PASSING.split(), _passes),
    **dict.fromkeys(_JOINING.split(), _joins),
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "chunk": _chunk,
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "max", "min"), _reduces),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax"), _softmax),
    **dict.fromkeys(("permute", "transpose"), _permute),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unsqueeze", "squeeze", "unflatten"), _reshape),
    **dict.fromkeys(("expand", "expand_as"), _expand),
}
