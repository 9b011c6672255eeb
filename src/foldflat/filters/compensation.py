"""Put what removed channels gave into the layers that read them: on average, or through what is left."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from foldflat.filters.covariances import Moments
from foldflat.filters.elimination import refitted
from foldflat.filters.readers import columns_of, merged_outputs, set_weights, shift_target, weights_of
from foldflat.model.channels import ChannelMap

__all__ = ["mean_shifts", "refits", "unshifted"]

_DIGITS = 9  # of float32, so that a plan read from JSON does the same


def mean_shifts(
    model: nn.Module, channels: ChannelMap, kept: Tensor, means: Mapping[str, Tensor]
) -> dict[str, list[float]]:
    """Return by bias what to add to it, or by running mean what to take off it, for removed channels' means.

    A layer without a bias hands its shift to the batch norm behind it; one with neither cannot be given any, as
    `unshifted` says.

    Args:
        model: the network before.
        channels: of this model.
        kept: (n_channels,) booleans.
        means: by layer, (inputs,) float64, the mean of each input channel or column.
    """
    found: dict[str, list[float]] = {}
    for name, mean in means.items():
        inputs, module = channels.layers[name].inputs, model.get_submodule(name)
        assert inputs is not None
        if bool(kept[inputs].all()):
            continue
        lost = columns_of(module, torch.where(kept[inputs], 0.0, mean))
        weights = weights_of(module).double().cpu()
        _add_shift(found, model, channels, name, (weights @ lost[:, :, None])[:, :, 0])
    return found


def refits(
    model: nn.Module, channels: ChannelMap, kept: Tensor, moments: Mapping[str, Moments]
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Return by weight its fit to what is left, in the shape before, and shifts as `mean_shifts` gives them.

    Args:
        model: the network before.
        channels: of this model.
        kept: (n_channels,) booleans.
        moments: of the layers that read channels.
    """
    weights: dict[str, Tensor] = {}
    shifts: dict[str, list[float]] = {}
    for name, own in moments.items():
        inputs, module = channels.layers[name].inputs, model.get_submodule(name)
        if inputs is None or bool(kept[inputs].all()):
            continue
        fitted, shift = refitted(own, kept)
        weights[f"{name}.weight"] = set_weights(module, fitted)
        _add_shift(shifts, model, channels, name, shift.double().cpu())
    return weights, shifts


def unshifted(model: nn.Module, channels: ChannelMap, kept: Tensor) -> list[str]:
    """Return a sentence on each layer that loses inputs and has nothing that takes the mean of what it loses."""
    return [
        f"`{name}` has neither a bias nor a batch norm behind it, so the mean of what it loses is not made good"
        for name in channels.readers_of(~kept)
        if shift_target(model, channels, name) is None
    ]


def _add_shift(
    shifts: dict[str, list[float]], model: nn.Module, channels: ChannelMap, name: str, shift: Tensor
) -> None:
    """Give a shift (groups, outputs of a group) to a layer's bias or to the norm behind it."""
    target = shift_target(model, channels, name)
    if target is not None:
        merged = merged_outputs(model.get_submodule(name), shift)
        signed = merged if target == f"{name}.bias" else -merged
        shifts[target] = [float(f"{value:.{_DIGITS}g}") for value in signed.tolist()]
