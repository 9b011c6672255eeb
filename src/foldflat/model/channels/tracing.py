"""From a network and one example to its channel groups, by `torch.export`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foldflat.errors import UnsupportedModelError
from foldflat.model.channels.groups import ChannelGroup, ChannelMap, Layer
from foldflat.model.channels.rules import LAYER_RULES
from foldflat.model.channels.shape_rules import SHAPE_RULES
from foldflat.model.channels.values import Ids
from foldflat.model.channels.walk import Walk, as_tensor

__all__ = [
    "call_arguments",
    "device_of",
    "eval_mode_of",
    "inference_mode_of",
    "on_device_of",
    "trace_channels",
]


def trace_channels(model: nn.Module, example: Any) -> ChannelMap:
    """Follow every channel of a network from the filter that makes it to the weights that read it.

    Args:
        model: any module that `torch.export` can trace; left as it is.
        example: one batch of inputs, a tensor, a tuple of positional or a dict of named ones; two examples are enough.

    Raises:
        UnsupportedModelError: the network cannot be traced; the message names the operation.

    Source: ours. Channels that go together are found by union-find over single channels, not over layers, so that
    concatenations, fixed padding and groups of convolutions need no special cases.
    """
    positional, named = call_arguments(example)
    with inference_mode_of(model):
        program = _exported(model, positional, named)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    # a buffer that is not stored could not be loaded in another shape: it stays what the network makes it
    names = {key: name for key, name in names.items() if name not in signature.non_persistent_buffers}
    walk = Walk(model, names, {**SHAPE_RULES, **LAYER_RULES})
    for node in program.graph.nodes:
        walk.visit(node)
    return _channel_map(walk)


def call_arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named arguments for a batch: a tensor, a tuple, or a dict."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example,) if isinstance(example, Tensor) else tuple(example), {}


def on_device_of(model: nn.Module, batch: Any) -> Any:
    """Return a batch, in its own form, on the device of a network."""
    return _moved(batch, device_of(model))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a network's first tensor; the processor where it has none."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


@contextmanager
def eval_mode_of(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for a while; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def inference_mode_of(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for a while, without gradients; every module gets its own mode back."""
    with eval_mode_of(model), torch.no_grad():
        yield


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: _moved(value, device) for name, value in batch.items()}
    return tuple(_moved(value, device) for value in batch) if isinstance(batch, (tuple, list)) else batch


def _exported(model: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        return torch.export.export(model, positional, named, strict=False)
    except Exception as error:  # torch.export raises what the network's own code raises, and more
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be traced: {said}{_place(error)}\nhint: a network whose path depends on "
            "the numbers it sees has no fixed channels; take that part out, or prune the parts before and after"
        ) from error


def _place(error: BaseException) -> str:
    """Return the last line of the network's own code that was running."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/torch/" not in code.co_filename and not code.co_filename.endswith("tracing.py"):
            frames.append(f" (line {trace.tb_lineno} of {code.co_filename.rpartition('/')[2]}, in {code.co_name})")
        trace = trace.tb_next
    return frames[-1] if frames else ""


def _channel_map(walk: Walk) -> ChannelMap:
    roots = walk.channels.roots()
    axes = {key: as_tensor(ids, roots) for key, ids in walk.labels.items()}
    layers = {
        name: replace(layer, inputs=as_tensor(layer.inputs, roots), outputs=as_tensor(layer.outputs, roots))  # type: ignore[arg-type]
        for name, layer in walk.layers.items()
    }
    groups = _groups(layers, walk.channels.reasons(), walk.channels.ties())
    return ChannelMap(len(roots), axes, layers, groups, list(walk.blocked))  # type: ignore[arg-type]


def _groups(layers: dict[str, Layer], reasons: dict[int, str], ties: dict[int, str]) -> list[ChannelGroup]:
    """Put channels with the same producers together, apart by whether and why they have to stay."""
    producers: dict[int, list[str]] = {}
    consumers: dict[int, list[str]] = {}
    for name, layer in layers.items():
        if layer.op != "dense":
            continue
        for ids, users in ((layer.outputs, producers), (layer.inputs, consumers)):
            for channel in _distinct(ids):
                users.setdefault(channel, []).append(name)
    members: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for channel, made_by in producers.items():
        reason = reasons.get(channel, "" if channel in consumers else "no layer reads them")
        members.setdefault((tuple(made_by), reason), []).append(channel)
    found = []
    for (producer_names, reason), channels in members.items():
        readers = dict.fromkeys(name for channel in channels for name in consumers.get(channel, []))
        note = next((ties[channel] for channel in channels if channel in ties), "")
        ids = torch.tensor(sorted(channels))
        found.append(ChannelGroup(producer_names[0], producer_names, tuple(readers), ids, reason, note))
    return found


def _distinct(ids: Tensor | Ids | None) -> list[int]:
    return [] if ids is None else np.unique(np.asarray(ids)).tolist()
