"""Try whether channels can go: the network without them must equal the network that does not read them."""

from typing import Any

import torch
from torch import Tensor, nn

from foldflat.model.channels import ChannelGroup, ChannelMap, call_arguments, inference_mode_of
from foldflat.model.removal import attributes_after, remove_channels, zero_channels

__all__ = ["first_output", "kept_axes", "tried"]

_TOLERANCE = 1e-3


def tried(model: nn.Module, channels: ChannelMap, example: Any) -> ChannelMap:
    """Return the map with every group that cannot lose a channel in practice marked as one that has to stay.

    Where a network's own code counts on a number of channels (a view, a split), its graph does not say so. One
    channel of each group is removed, all at once, and only if that fails group by group.

    Args:
        model: the network.
        channels: what tracing found.
        example: a batch of inputs.
    """
    if _failure(model, channels, channels.free_groups, example) is None:
        return channels
    groups = []
    for group in channels.groups:
        why = _failure(model, channels, [group], example) if group.is_free else None
        groups.append(group if why is None else _kept(group, why))
    return ChannelMap(channels.n_channels, channels.axes, channels.layers, groups, channels.blocked)


def kept_axes(channels: ChannelMap, kept: Tensor) -> dict[tuple[str, int], Tensor]:
    """Return by tensor and axis the positions that stay, for the axes that lose any; `kept` is (n_channels,)."""
    found = {}
    for key, ids in channels.axes.items():
        stays = kept[ids]
        if not bool(stays.all()):
            found[key] = stays.nonzero()[:, 0]
    return found


def first_output(outputs: Any) -> Tensor:
    """Return the first tensor of what a network gives back."""
    if isinstance(outputs, Tensor):
        return outputs
    values = list(outputs.values()) if hasattr(outputs, "values") else list(outputs)
    return first_output(values[0])


def _kept(group: ChannelGroup, why: str) -> ChannelGroup:
    return ChannelGroup(group.name, group.producers, group.consumers, group.channels, why, group.note)


def _failure(model: nn.Module, channels: ChannelMap, groups: list[ChannelGroup], example: Any) -> str | None:
    """Say what goes wrong when the last channel of each group is removed, None for nothing."""
    kept = torch.ones(channels.n_channels, dtype=torch.bool)
    for group in groups:
        if len(group.channels) > 1:
            kept[group.channels[-1]] = False
    if bool(kept.all()):
        return None
    positional, named = call_arguments(example)
    expected_of = zero_channels(model, channels, kept)
    smaller = remove_channels(model, kept_axes(channels, kept), attributes_after(model, channels, kept))
    with inference_mode_of(expected_of), inference_mode_of(smaller):
        expected = first_output(expected_of(*positional, **named))
        try:
            found = first_output(smaller(*positional, **named))
        except Exception as error:  # noqa: BLE001 (whatever the network's own code raises when a number is not what it expects)
            return f"the network fails without one of them: {str(error).splitlines()[0]}"
    if found.shape != expected.shape:
        return f"without one of them the output has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    gap = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    return None if gap < _TOLERANCE else f"without one of them the output differs by {gap:.1e}"
