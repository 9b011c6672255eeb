"""What tracing finds: groups of channels, the tensors that hold them, the layers that read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = ["ChannelGroup", "ChannelMap", "Layer", "named_tensors"]


@dataclass(frozen=True)
class Layer:
    """Hold the channels of one layer.

    Attributes:
        name: dotted name of the module.
        op: what it does to channels: "dense" (convolution or linear layer, grouped or not), "depthwise" or "norm".
        inputs: (in_channels,) channel of each input channel, for a linear layer of each column; None: not followed.
        outputs: (out_channels,) channel of each output channel.
        positions: multiplications of one example per number of the weight; 0 for a norm.
        source: of a norm, the layer whose outputs it reads and no other operation has touched; "" for none.
    """

    name: str
    op: str
    inputs: Tensor | None
    outputs: Tensor | None
    positions: int = 0
    source: str = ""


@dataclass(frozen=True)
class ChannelGroup:
    """Hold the channels that the same filters make: each of them goes, or stays, in all these layers at once.

    Attributes:
        name: the first layer that makes them.
        producers: every layer that makes them.
        consumers: layers that read them with a weight for each.
        channels: (c,) channel numbers.
        reason: why none of them may go; "" where they may.
        note: what ties them beside sums; "" for nothing.
    """

    name: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    channels: Tensor
    reason: str = ""
    note: str = ""

    @property
    def is_free(self) -> bool:
        """Return whether channels may be removed."""
        return not self.reason


@dataclass(frozen=True)
class ChannelMap:
    """Hold the channels of a network.

    Attributes:
        n_channels: channels are numbered from 0; each number stands for all entries that go together.
        axes: by tensor name and axis, (size,) the channel of each entry.
        layers: by module name.
        groups: in the order of the graph.
        blocked: channels' ends that could not be followed: layer and operation.
    """

    n_channels: int
    axes: Mapping[tuple[str, int], Tensor]
    layers: Mapping[str, Layer]
    groups: list[ChannelGroup]
    blocked: list[str] = field(default_factory=list)

    @property
    def free_groups(self) -> list[ChannelGroup]:
        """Return the groups of which channels may be removed."""
        return [group for group in self.groups if group.is_free]

    @property
    def free_channels(self) -> Tensor:
        """Return (n_channels,) whether each may be removed."""
        free = torch.zeros(self.n_channels, dtype=torch.bool)
        for group in self.free_groups:
            free[group.channels] = True
        return free

    def readers_of(self, channels: Tensor) -> list[str]:
        """Return the layers that read, with a weight for each, any of the channels (n_channels,) boolean."""
        return [
            name
            for name, layer in self.layers.items()
            if layer.op == "dense" and layer.inputs is not None and bool(channels[layer.inputs].any())
        ]


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name; a shared one by each of its names."""
    found = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    found.update(model.named_parameters(remove_duplicate=False))
    return found
