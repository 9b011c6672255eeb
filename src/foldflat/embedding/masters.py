"""Numbers that are trained in place of coarser stored ones, and how gradients pass the rounding between them."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from foldflat.errors import DivergedError

__all__ = ["MasterWeights", "bounded", "straight_through"]


class MasterWeights(nn.Module):
    """Hold float32 parameters of which a layer stores a rounded version; they are in no state dict.

    A change of type of the model leaves them float32, as optimisers want them.

    Args:
        trained: what becomes a parameter, by name.
        kept: what belongs to it and is not trained.
    """

    def __init__(self, trained: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, values in trained.items():
            self.register_parameter(name, nn.Parameter(values.to(torch.float32, copy=True)))
        for name, values in kept.items():
            self.register_buffer(name, values.to(torch.float32, copy=True))

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, to write or to fill."""
        return {name: tensor.detach() for name, tensor in (*self.named_parameters(), *self.named_buffers())}

    def check_finite(self) -> None:
        """Raise DivergedError where training left something that cannot be stored."""
        for name, values in self.named_parameters():
            if not bool(torch.isfinite(values).all()):
                raise DivergedError(
                    f"training left NaN or infinity in `{name}` of a compressed table, which cannot be stored\n"
                    "hint: a lower learning rate"
                )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: ARG002 (nn.Module's)
        def moved(tensor: Tensor) -> Tensor:
            # a change of type passes integers by
            return fn(tensor.view(torch.int32)).view(torch.float32)

        for parameter in self.parameters():
            parameter.data = moved(parameter.data)
            if parameter.grad is not None:
                parameter.grad.data = moved(parameter.grad.data)
        for name, kept in self.named_buffers():
            self._buffers[name] = moved(kept)
        return self

    def _save_to_state_dict(self, *_: Any) -> None:
        """Leave out everything: the layer stores the rounded version."""

    def _load_from_state_dict(self, *_: Any) -> None:
        """Expect nothing: the layer reads them from the rounded version."""


def straight_through(values: Tensor, stored: Tensor) -> Tensor:
    """Return `stored`, with gradients going to `values` as if nothing had been rounded.

    Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013.
    """
    return _StraightThrough.apply(values, stored)  # type: ignore[no-any-return,no-untyped-call]


def bounded(values: Tensor, least: float, most: float) -> Tensor:
    """Return values clamped to a range; those outside get no gradient, unless a step along it leads back."""
    return _Bounded.apply(values, least, most)  # type: ignore[no-any-return,no-untyped-call]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, stored: Tensor) -> Tensor:  # noqa: ARG004 (autograd's signature)
        return stored.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradient, None


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, least: float, most: float) -> Tensor:
        clamped = values.clamp(least, most)
        ctx.save_for_backward(values - clamped)
        return clamped

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (beyond,) = ctx.saved_tensors
        # descent moves against the gradient
        return gradient.masked_fill(beyond * gradient < 0, 0), None, None
