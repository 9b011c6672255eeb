"""What a layer reads, as rows of numbers: one for each output position, in the order of its weight's columns."""

import math
from typing import Any

import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from foldflat.model.channels import ChannelMap

__all__ = [
    "columns_of",
    "merged_outputs",
    "outputs_of",
    "set_weights",
    "shift_target",
    "weights_of",
    "windows_of_inputs",
]


def weights_of(module: nn.Module) -> Tensor:
    """Return (groups, outputs of a group, columns of a group): the layer as one matrix for each of its groups.

    A transposed convolution maps each input position to a window of outputs.
    """
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    if isinstance(module, nn.Linear):
        return weight[None]
    groups = int(module.groups)  # type: ignore[arg-type]
    by_group = weight.reshape(groups, -1, *weight.shape[1:])
    if getattr(module, "transposed", False):
        return by_group.flatten(2).transpose(1, 2)
    return by_group.flatten(2)


def set_weights(module: nn.Module, matrices: Tensor) -> Tensor:
    """Return a weight of the layer's shape from what `weights_of` gives."""
    weight: Any = module.weight
    if getattr(module, "transposed", False):
        matrices = matrices.transpose(1, 2)
    return matrices.reshape(weight.shape)


def windows_of_inputs(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return (groups, rows, columns of a group) of what the layer multiplies its weights with."""
    if isinstance(module, nn.Linear):
        return inputs.reshape(1, -1, inputs.shape[-1])
    groups = int(module.groups)  # type: ignore[arg-type]
    if getattr(module, "transposed", False):
        columns = inputs.flatten(2)
    else:
        padding: Any = module._reversed_padding_repeated_twice
        columns = _unfolded(module, F.pad(inputs, padding, _mode(module)) if any(padding) else inputs)
    by_group = columns.reshape(len(columns), groups, -1, columns.shape[2])
    return by_group.permute(1, 0, 3, 2).flatten(1, 2)


def columns_of(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return (groups, columns of a group) the channel that each column of `weights_of` reads.

    Args:
        module: the layer.
        inputs: (in_channels,) channel of each input channel, for a linear layer of each column.
    """
    if isinstance(module, nn.Linear):
        return inputs[None]
    groups = int(module.groups)  # type: ignore[arg-type]
    area = 1 if getattr(module, "transposed", False) else math.prod(_tuple(module.kernel_size))
    return inputs.reshape(groups, -1).repeat_interleave(area, 1)


def outputs_of(module: nn.Module, values: Tensor) -> Tensor:
    """Return (groups, outputs of a group) of numbers (out_channels,), as rows of `weights_of`."""
    if isinstance(module, nn.Linear):
        return values[None]
    by_group = values.reshape(int(module.groups), -1)  # type: ignore[arg-type]
    if getattr(module, "transposed", False):
        return by_group.repeat_interleave(math.prod(_tuple(module.kernel_size)), 1)
    return by_group


def merged_outputs(module: nn.Module, values: Tensor) -> Tensor:
    """Return (out_channels,) of numbers (groups, outputs of a group); the mean over a transposed layer's window.

    Every position of such a window is reached from kernel area / stride area positions of the input.
    """
    if not getattr(module, "transposed", False):
        return values.flatten()
    area, step = (math.prod(_tuple(getattr(module, name))) for name in ("kernel_size", "stride"))
    return values.reshape(len(values), -1, area).sum(2).flatten() / step


def shift_target(model: nn.Module, channels: ChannelMap, name: str) -> str | None:
    """Return what takes a shift of a layer's outputs: its bias, or the running mean of the norm behind it."""
    if getattr(model.get_submodule(name), "bias", None) is not None:
        return f"{name}.bias"
    behind = (norm for norm, other in channels.layers.items() if other.source == name)
    means = (f"{norm}.running_mean" for norm in behind)
    return next((mean for mean in means if (mean, 0) in channels.axes), None)


def _unfolded(module: nn.Module, padded: Tensor) -> Tensor:
    """Return (n, channels x window, positions)."""
    kernel, stride, dilation = (_tuple(getattr(module, name)) for name in ("kernel_size", "stride", "dilation"))
    windows = padded
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        windows = windows.unfold(axis + 2, (size - 1) * gap + 1, step)
        windows = windows[..., ::gap]
    rank = len(kernel)
    order = [0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank)]
    return windows.permute(order).flatten(2 + rank).flatten(1, 1 + rank)


def _mode(module: nn.Module) -> str:
    mode = str(module.padding_mode)
    return "constant" if mode == "zeros" else mode


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in value)
