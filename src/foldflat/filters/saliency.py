"""How much each input channel of a layer matters: the sensitivities of provable filter pruning."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from foldflat.axes import BLOCK_ELEMENTS, blocks
from foldflat.errors import DataError, RecipeError
from foldflat.filters.shares import LargestShares
from foldflat.filters.windows import full_precision, windows_of
from foldflat.randomness import torch_generator

__all__ = ["SensitivityMeter", "sensitivity"]

_LARGEST_DENOMINATOR = 1e30


def sensitivity(
    layer: nn.Module,
    inputs: Tensor,
    *,
    channels: Tensor | None = None,
    window: Literal["sum", "maximum"] = "sum",
    patches: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Return (c,) the sensitivity of each input channel of `layer` on a batch of its inputs, in [0, 1].

    The sensitivity of channel j is the largest share <w_ij, a_j(p)> / sum_k <w_ik, a_k(p)> that it has in any output i
    at any position p of any input; positive and negative weights, and positive and negative inputs, make four pairs
    with shares of their own. Sums run over the layer's window and, in a grouped convolution, the output's group; biases
    stay out; a denominator up to 1.2e-7 gives share 0.

    Args:
        layer: Conv1d, Conv2d, Conv3d, their transposed kin, or Linear.
        inputs: as the layer takes them, floating-point.
        channels: as `SensitivityMeter` takes it; so are `window`, `patches` and `seed`.

    Raises:
        DataError: `inputs` is empty, not finite or of a shape that the layer does not take.
        UnsupportedModelError: `layer` is none of these.

    Source: Liebenwein et al., Provable Filter Pruning for Efficient Neural Networks (ICLR 2020), definition 1, with
    the whole window's share in place of the largest single tap's.
    """
    meter = SensitivityMeter(layer, channels=channels, window=window, patches=patches, seed=seed)
    meter.update(inputs)
    return meter.value


class SensitivityMeter:
    """Measure the sensitivities of one layer batch by batch; the order of inputs and batches changes nothing.

    Computed in float32 (float64 if the layer is), exact up to rounding: 1e-5. Temporary arrays are a few times
    16 MiB, or what one row of one input's positions takes where that is more, beside two copies of the weights.
    """

    def __init__(
        self,
        layer: nn.Module,
        *,
        channels: Tensor | None = None,
        window: Literal["sum", "maximum"] = "sum",
        patches: int | None = None,
        seed: int = 0,
    ) -> None:
        """Begin with sensitivities of zero.

        Args:
            layer: Conv1d, Conv2d, Conv3d, their transposed kin, or Linear; its weights are read here, once.
            channels: of a Linear behind a flatten, (in_features,) int64: the channel of each column. A channel's share
                is then that of all its columns together.
            window: "sum", a channel's share over its whole window; "maximum", the largest share of a single tap, as
                the authors' code computes it, for comparison only: smaller, slower and no bound.
            patches: positions drawn from each input in place of all of them; the result is a lower estimate.
            seed: of that draw.
        """
        if window not in ("sum", "maximum"):
            raise RecipeError(f'`window` is {window!r}; hint: "sum", or "maximum" to compare')
        if patches is not None and patches < 1:
            raise RecipeError(f"`patches` is {patches}, the least is 1; hint: None takes every position")
        self._layer, self._patches, self._generator = layer, patches, torch_generator(seed)
        self._windows = windows_of(layer, channels)
        _check_finite(self._windows.weight, f"the weight of {_name(layer)}", "train or load it again")
        self._reach = float(self._windows.weight.flatten(1).abs().sum(1).max())
        self._walk = self._windows if patches is None else self._windows.laid_out()
        self._shares = LargestShares(self._walk, maximum=window == "maximum")

    @property
    def value(self) -> Tensor:
        """Return (c,) the sensitivities of all inputs so far; 0 for a channel that was never active."""
        return self._shares.value.clamp(max=1)

    @torch.no_grad()
    def update(self, inputs: Tensor) -> None:
        """Take another batch of the layer's inputs into account.

        Raises:
            DataError: `inputs` is empty, not finite or of a shape that the layer does not take; nothing is changed.
        """
        inputs = self._checked(inputs)
        positions = math.prod(self._windows.positions(self._windows.prepare(inputs[:1]).shape[2:]))
        with full_precision(self._windows.weight.device):
            for part in blocks(len(inputs), max(positions * self._shares.width, inputs[0].numel())):
                signals = self._windows.prepare(inputs[part].to(self._windows.weight))
                if self._patches is not None and inputs.dim() > 2:
                    signals = self._windows.lay_out(signals, self._draw(len(signals), positions))
                for piece in self._walk.pieces(signals, self._shares.width, BLOCK_ELEMENTS):
                    self._take(piece)

    def _checked(self, inputs: Tensor) -> Tensor:
        """Return `inputs` as a batch."""
        name, spatial = _name(self._layer), 0 if isinstance(self._layer, nn.Linear) else len(self._windows.kernel)
        axis, count = -1 - spatial, getattr(self._layer, "in_features", self._windows.n_channels)
        fits = inputs.dim() > spatial and inputs.shape[axis] == count and (not spatial or inputs.dim() <= spatial + 2)
        if not fits or not inputs.is_floating_point():
            axes = ", ".join(["n", str(count), *["size"] * spatial])
            raise DataError(
                f"inputs of {name} are {inputs.dtype} of shape {tuple(inputs.shape)}, it takes floating-point numbers "
                f"of shape ({axes}); hint: hand over what the layer itself is called with"
            )
        if not inputs.numel():
            raise DataError(f"inputs of {name} have shape {tuple(inputs.shape)}, no numbers; hint: give one or more")
        largest = _check_finite(inputs, f"inputs of {name}", "look for the layer or image that they come from")
        if largest * self._reach > _LARGEST_DENOMINATOR:
            raise DataError(
                f"inputs of {name} go up to {largest:.3g} and make sums of up to {largest * self._reach:.3g}, "
                f"above the limit of {_LARGEST_DENOMINATOR:.0g}; hint: scale them, which changes no sensitivity"
            )
        inputs = inputs.detach()
        inputs = inputs[None] if inputs.dim() == spatial + 1 else inputs
        found = self._windows.positions(self._windows.prepare(inputs[:1]).shape[2:])
        if min(found) < 1:
            raise DataError(
                f"inputs of {name} have shape {tuple(inputs.shape)}, smaller than its window; hint: larger images"
            )
        return inputs

    def _draw(self, images: int, positions: int) -> Tensor:
        """Return (images, patches) positions, each at most once an image; all where there are no more."""
        assert self._patches is not None
        noise = torch.rand(images, positions, generator=self._generator)
        return noise.topk(min(self._patches, positions), dim=1).indices.to(self._windows.weight.device)

    def _take(self, signals: Tensor) -> None:
        """Take positive and negative inputs into account one after the other."""
        least, largest = signals.aminmax()
        if float(largest) > 0:
            self._shares.update(signals.clamp_min(0) if float(least) < 0 else signals)
        if float(least) < 0:
            self._shares.update(signals.neg().clamp_min_(0))


def _name(layer: nn.Module) -> str:
    return f"this {type(layer).__name__}"


def _check_finite(numbers: Tensor, what: str, hint: str) -> float:
    """Return the largest absolute value, one pass without a copy; raise unless all `numbers` are finite."""
    least, largest = map(float, numbers.aminmax())
    if math.isfinite(least) and math.isfinite(largest):
        return max(-least, largest)
    nan, infinite = int(numbers.isnan().sum()), int(numbers.isinf().sum())
    raise DataError(f"{what}: {nan} of {numbers.numel()} numbers are NaN, {infinite} are infinite; hint: {hint}")
