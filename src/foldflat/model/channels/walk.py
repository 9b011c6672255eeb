"""Walk the graph of a network, node by node, with a rule for each operation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from foldflat.model.channels.groups import Layer
from foldflat.model.channels.values import Channels, Ids, Tracked

__all__ = ["Rule", "Value", "Walk", "operation"]

Value = Tracked | list["Tracked | None"] | None
Rule = Callable[["Walk", fx.Node], Value]


def operation(node: fx.Node) -> str:
    """Return the plain name of what a node does, such as "conv2d"."""
    packet = getattr(node.target, "overloadpacket", None)
    name = packet.__name__ if packet is not None else getattr(node.target, "__name__", str(node.target))
    return name.rstrip("_")


class Walk:
    """Hold what is known of a graph while it is walked.

    Attributes:
        channels: every channel so far.
        labels: by tensor and axis, the channel of each entry.
        layers: by module name.
        blocked: operations that could not be followed, with their layers.
    """

    def __init__(self, model: nn.Module, names: dict[str, str], rules: dict[str, Rule]) -> None:
        """Start before the first node.

        Args:
            model: the network that the graph was made of.
            names: by placeholder, the parameter or buffer it stands for.
            rules: by name of an operation.
        """
        self.channels = Channels()
        self.labels: dict[tuple[str, int], Ids] = {}
        self.layers: dict[str, Layer] = {}
        self.blocked: dict[str, None] = {}
        self._model, self._names, self._rules = model, names, rules
        self._values: dict[fx.Node, Value] = {}

    def visit(self, node: fx.Node) -> None:
        """Follow channels through one node."""
        if node.op == "placeholder":
            self._values[node] = None
        elif node.op == "output":
            for given in node.all_input_nodes:
                self.pin(self.value(given), "they are an output of the network")
        elif operation(node) == "getitem":
            values = self._values[node.args[0]]  # type: ignore[index]
            self._values[node] = values[node.args[1]] if isinstance(values, list) else None  # type: ignore[index]
        else:
            self._values[node] = self._followed(node)

    def value(self, node: Any) -> Tracked | None:
        """Return the channels of a node's result; a parameter with one axis of more than one number gets its own."""
        if not isinstance(node, fx.Node):
            return None
        name = self._names.get(node.name)
        if name is None or node.op != "placeholder":
            found = self._values[node]
            return None if isinstance(found, list) else found
        long = [axis for axis, size in enumerate(shape_of(node)) if size > 1]
        if len(long) != 1:
            return None
        return Tracked(long[0], self.labelled(name, long[0], shape_of(node)[long[0]]))

    def parameter(self, node: Any) -> str | None:
        """Return the name of the parameter or buffer that a node is."""
        return self._names.get(node.name) if isinstance(node, fx.Node) and node.op == "placeholder" else None

    def module(self, name: str) -> nn.Module:
        """Return a module of the network."""
        return self._model.get_submodule(name)

    def label(self, tensor: str, axis: int, ids: Ids) -> None:
        """Say which channel every entry of a tensor's axis belongs to; what it was said to be before is joined."""
        known = self.labels.setdefault((tensor, axis), ids)
        if known is not ids:
            self.channels.join(known, ids)

    def labelled(self, tensor: str, axis: int, size: int) -> Ids:
        """Return the channels of a tensor's axis, new ones where there are none."""
        if (tensor, axis) not in self.labels:
            self.labels[tensor, axis] = self.channels.new(size)
        return self.labels[tensor, axis]

    def add_layer(self, layer: Layer) -> None:
        """Remember a layer; one that is called twice multiplies at both places."""
        known = self.layers.get(layer.name)
        self.layers[layer.name] = (
            layer if known is None else replace(known, positions=known.positions + layer.positions)
        )

    def pin(self, value: Value, reason: str) -> None:
        """Keep the channels of a value."""
        for part in value if isinstance(value, list) else [value]:
            if part is not None:
                self.channels.pin(part.ids, reason)

    def block(self, node: fx.Node, why: str = "which is not followed") -> None:
        """Keep the channels of whatever a node reads, and name the operation."""
        place = module_of(node)
        what = f"`{operation(node)}` in `{place}`" if place else f"`{operation(node)}`"
        found = False
        for given in node.all_input_nodes:
            if self.parameter(given) is None and self._values[given] is not None:
                self.pin(self._values[given], f"they enter {what}, {why}")
                found = True
        if found:
            self.blocked.setdefault(f"{what}, {why}")

    def _followed(self, node: fx.Node) -> Value:
        rule = self._rules.get(operation(node))
        if rule is not None:
            return rule(self, node)
        self.block(node)
        return None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's result."""
    return tuple(int(size) for size in node.meta["val"].shape)


def module_of(node: fx.Node) -> str:
    """Return the dotted name of the module that a node belongs to."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Return a node's arguments by the names in its schema, with defaults."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    given |= {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    return {**given, **node.kwargs}


def as_tensor(ids: Ids | None, roots: Ids) -> torch.Tensor | None:
    """Return channel numbers (c,) with joined ones made equal."""
    return None if ids is None else torch.from_numpy(roots[ids])
