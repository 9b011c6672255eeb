"""Time networks side by side, and count what each layer of one takes."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foldflat.errors import DataError
from foldflat.model.channels import call_arguments, device_of, inference_mode_of, on_device_of

__all__ = ["Latency", "LayerCost", "layer_costs", "measure_latency"]

_COUNTED = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)


@dataclass(frozen=True)
class Latency:
    """Hold how long passes of one network took, in seconds.

    Attributes:
        median, least: of all passes.
        quartiles: a quarter of the passes took at most the first, a quarter at least the second.
        passes: how many were timed.
    """

    median: float
    least: float
    quartiles: tuple[float, float]
    passes: int


@dataclass(frozen=True)
class LayerCost:
    """Hold what one convolution or linear layer takes.

    Attributes:
        name: dotted.
        macs: multiplications for one example, of all calls together; 0 for a layer that was not called.
        weight_bytes: of its weight and bias.
    """

    name: str
    macs: int
    weight_bytes: int


def measure_latency(
    models: Mapping[str, nn.Module],
    example: Any,
    repeats: int = 20,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Return by name how long a pass of each network takes, measured in turns: a, b, a, b, ..

    What else the machine does then slows all of them alike. Networks are in eval mode and without gradients meanwhile,
    each on its own device, to which the example is brought beforehand.

    Args:
        models: by name; they get their modes back.
        example: one batch: a tensor, a tuple of positional or a dict of named inputs.
        repeats: passes of each that are timed.
        warmup: passes of each before those.
        clock: gives seconds; `time.process_time` counts what this process computes, all threads together, which is
            what others on a busy machine disturb least.

    Raises:
        DataError: no networks, or `repeats` below 1.
    """
    if not models or repeats < 1:
        raise DataError(f"{len(models)} networks are timed {repeats} times; hint: at least one network, once")
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(inference_mode_of(model))
        passes = {name: _one_pass(model, example, clock) for name, model in models.items()}
        for number in range(warmup + repeats):
            for name, one_pass in passes.items():
                taken = one_pass()
                if number >= warmup:
                    seconds[name].append(taken)
    return {name: _summary(taken) for name, taken in seconds.items()}


def layer_costs(model: nn.Module, example: Any) -> list[LayerCost]:
    """Return what every convolution and linear layer takes, in the order of the network's modules.

    Args:
        model: run once, in eval mode and without gradients; left as it is.
        example: one batch, whose first axis is examples.
    """
    positional, named = call_arguments(on_device_of(model, example))
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _COUNTED)}
    macs = dict.fromkeys(layers, 0)
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(_counter(macs, name)).remove)
        stack.enter_context(inference_mode_of(model))
        model(*positional, **named)
    examples = len(next(value for value in (*positional, *named.values()) if isinstance(value, Tensor)))
    return [LayerCost(name, macs[name] // examples, _weight_bytes(layer)) for name, layer in layers.items()]


def _one_pass(model: nn.Module, example: Any, clock: Callable[[], float]) -> Callable[[], float]:
    device = device_of(model)
    positional, named = call_arguments(on_device_of(model, example))

    def run() -> float:
        _finish(device)
        started = clock()
        model(*positional, **named)
        _finish(device)
        return clock() - started

    return run


def _finish(device: torch.device) -> None:
    """Wait for a device that works on after a call returns."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def _summary(seconds: list[float]) -> Latency:
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else 3 * seconds
    return Latency(middle, min(seconds), (low, high), len(seconds))


def _counter(macs: dict[str, int], name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight: Any = layer.weight
        if isinstance(layer, nn.Linear):
            times = output.numel() // weight.shape[0]
        else:
            # a transposed convolution multiplies its weight with every position that it reads, not that it writes
            over = inputs[0] if getattr(layer, "transposed", False) else output
            times = len(over) * math.prod(over.shape[2:])
        macs[name] += times * weight.numel()

    return count


def _weight_bytes(layer: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in layer.parameters(recurse=False))
