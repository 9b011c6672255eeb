"""Parameters, multiplications and bytes of a network, whole and with fewer channels."""

from dataclasses import dataclass

from torch import Tensor, nn

from foldflat.model.channels import ChannelMap, named_tensors

__all__ = ["NetworkSize", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """Hold what a network takes: parameters, multiplications of one example, bytes of parameters and buffers."""

    parameters: int
    macs: int
    bytes: int


class NetworkSize:
    """Say what a network takes when some of its channels are gone."""

    def __init__(self, model: nn.Module, channels: ChannelMap) -> None:
        """Read shapes once.

        Args:
            model: the network.
            channels: of this model.
        """
        self._patterns: list[Tensor] = []
        numbers: dict[tuple[int, ...], int] = {}
        self._tensors: list[_Stored] = []
        positions = {f"{name}.weight": layer.positions for name, layer in channels.layers.items()}
        for name, tensor in _distinct(model, channels).items():
            fixed, followed = 1, []
            for axis, size in enumerate(tensor.shape):
                ids = channels.axes.get((name, axis))
                if ids is None:
                    fixed *= size
                    continue
                key = tuple(ids.tolist())
                if key not in numbers:
                    numbers[key] = len(self._patterns)
                    self._patterns.append(ids)
                followed.append(numbers[key])
            parameter = isinstance(tensor, nn.Parameter)
            macs = positions.get(name, 0) if tensor.ndim > 1 else 0
            self._tensors.append(_Stored(fixed, tuple(followed), parameter, macs, tensor.element_size()))

    def after(self, kept: Tensor) -> Sizes:
        """Return the sizes with only the channels `kept` (n_channels,) boolean."""
        counts = [int(kept[ids].sum()) for ids in self._patterns]
        parameters = macs = stored = 0
        for tensor in self._tensors:
            numel = tensor.fixed
            for pattern in tensor.followed:
                numel *= counts[pattern]
            parameters += numel * tensor.is_parameter
            macs += numel * tensor.macs
            stored += numel * tensor.itemsize
        return Sizes(parameters, macs, stored)


@dataclass(frozen=True)
class _Stored:
    fixed: int
    followed: tuple[int, ...]
    is_parameter: bool
    macs: int
    itemsize: int


def _distinct(model: nn.Module, channels: ChannelMap) -> dict[str, Tensor]:
    """Return every tensor once, by the name that the channel map uses for it."""
    followed = {name for name, _ in channels.axes}
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in named_tensors(model).items():
        if id(tensor) not in found or name in followed:
            found[id(tensor)] = (name, tensor)
    return dict(found.values())
