"""Second moments of what layers read, and how much the loss feels their outputs, from one pass over the data."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from foldflat.axes import blocks
from foldflat.filters.calibration import batches_of, examples_in, logits_of, parts_of
from foldflat.filters.readers import columns_of, outputs_of, shift_target, weights_of, windows_of_inputs
from foldflat.model.channels import ChannelMap, eval_mode_of
from foldflat.randomness import torch_generator

__all__ = ["Moments", "measure_moments"]


@dataclass
class Moments:
    """Hold what one layer reads and how its outputs count.

    Attributes:
        weights: (groups, outputs, columns) of the layer.
        columns: (groups, columns) channel numbers.
        covariance: (groups, columns, columns) float32, of the columns over positions and examples; about zero where
            the layer has nothing that takes a shift.
        mean: (groups, columns) float32; zero in that case.
        importance: (groups, outputs) expected squared derivative of the loss, equal where the loss feels none of them,
            in a unit in which losing all that the layer reads costs 1. In the loss's own unit early layers would hardly
            count, because errors add up behind them.
    """

    weights: Tensor
    columns: Tensor
    covariance: Tensor
    mean: Tensor
    importance: Tensor


def measure_moments(
    model: nn.Module, channels: ChannelMap, going: Tensor, calibration: Any, seed: int
) -> tuple[dict[str, Moments], int]:
    """Return by layer what it reads, for layers that read channels `going` (n_channels,); and the number of examples.

    The loss is the cross-entropy against labels drawn from the network's own predictions, so that the squared
    derivatives are the diagonal of its Fisher information.

    Raises:
        DataError: the data are missing, empty, not finite, or not what the network accepts.
    """
    meters = {}
    for name in channels.readers_of(going):
        inputs = channels.layers[name].inputs
        assert inputs is not None
        meters[name] = _Meter(model.get_submodule(name), inputs, shift_target(model, channels, name) is not None)
    generator = torch_generator(seed)
    examples = 0
    with _watched(model, meters):
        for batch in batches_of(calibration):
            for part in parts_of(batch):
                logits = logits_of(model, part)
                labels = torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=generator)[:, 0]
                F.cross_entropy(logits, labels.to(logits.device), reduction="sum").backward()
            examples += examples_in(batch)
    return {name: meter.moments() for name, meter in meters.items()}, examples


class _Meter:
    def __init__(self, module: nn.Module, inputs: Tensor, centred: bool) -> None:
        self._module, self._columns, self._centred = module, columns_of(module, inputs), centred
        self._rows = 0
        self._sums: Tensor | None = None
        self._products: Tensor | None = None
        self._squares: Tensor | None = None

    def read(self, inputs: Tensor) -> None:
        for part in blocks(len(inputs), max(1, inputs[0].numel() * self._columns.shape[1] // inputs.shape[1])):
            rows = windows_of_inputs(self._module, inputs[part].detach().float())
            if self._products is None or self._sums is None:
                self._products = rows.new_zeros(len(rows), rows.shape[2], rows.shape[2])
                self._sums = rows.new_zeros(len(rows), rows.shape[2])
            # in place: these matrices are the largest things there are
            self._products.baddbmm_(rows.mT, rows)
            self._sums += rows.sum(1)
            self._rows += rows.shape[1]

    def felt(self, gradient: Tensor) -> None:
        axis = -1 if isinstance(self._module, nn.Linear) else 1
        squares = gradient.detach().float().square().movedim(axis, -1).flatten(0, -2).sum(0)
        self._squares = squares if self._squares is None else self._squares + squares

    def moments(self) -> Moments:
        assert self._products is not None
        assert self._sums is not None
        mean = self._sums / self._rows if self._centred else torch.zeros_like(self._sums)
        covariance = self._products.div_(self._rows).baddbmm_(mean[:, :, None], mean[:, None, :], alpha=-1)
        weights = weights_of(self._module).float()
        powers = ((weights @ covariance) * weights).sum(2)
        felt = torch.ones_like(powers) if self._squares is None else outputs_of(self._module, self._squares)
        if not float((felt * powers).sum()) > 0:
            # a loss that does not feel this layer, of a single output for one, says nothing: all outputs count alike
            felt = torch.ones_like(powers)
        whole = (felt * powers).sum()
        importance = felt / whole if whole > 0 else torch.zeros_like(felt)
        return Moments(weights, self._columns, covariance, mean, importance)


@contextmanager
def _watched(model: nn.Module, meters: dict[str, _Meter]) -> Iterator[None]:
    """Show layers' inputs and the derivatives of their outputs to the meters; leave no gradient on the network."""
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in required:
            parameter.requires_grad_(False)
        with ExitStack() as stack, eval_mode_of(model):
            for name, meter in meters.items():
                handle = model.get_submodule(name).register_forward_hook(_hook(meter))
                stack.callback(handle.remove)
            with torch.enable_grad():
                yield
    finally:
        for parameter, wanted in required:
            parameter.requires_grad_(wanted)


def _hook(meter: _Meter) -> Any:
    def watch(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        meter.read(inputs[0])
        if not output.requires_grad:
            # weights need no gradients here, so the first layer's output is where derivatives begin
            output = output.detach().requires_grad_(True).clone()
        output.register_hook(meter.felt)
        return output

    return watch
