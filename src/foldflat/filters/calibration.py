"""Calibration data: one batch or many, checked once, and the inputs of layers as they pass."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foldflat.errors import DataError, FoldflatError
from foldflat.model.channels import call_arguments, inference_mode_of, on_device_of
from foldflat.model.trial import first_output

__all__ = [
    "batches_of",
    "called_with",
    "examples_in",
    "first_examples",
    "logits_of",
    "parts_of",
    "run_batches",
    "watched_inputs",
    "with_example",
]

_EXAMPLES = 2
_PART_ELEMENTS = 2**21


def batches_of(calibration: Any) -> Iterator[Any]:
    """Return the batches of calibration data: a tensor, tuple or dict of tensors is one, any other iterable holds them.

    Raises:
        DataError: there are none, or one is empty or holds NaN or infinite numbers.
    """
    if calibration is None:
        raise DataError("no calibration data are given; hint: about 200 images as they enter the network, no labels")
    if not isinstance(calibration, Iterable):
        raise DataError(
            f"the calibration data are a {type(calibration).__name__}; hint: a tensor, or an iterable of batches"
        )
    batches = [calibration] if isinstance(calibration, (Tensor, Mapping, tuple)) else calibration
    found = False
    for number, batch in enumerate(batches):
        found = True
        _check(batch, number)
        yield batch
    if not found:
        raise DataError("the calibration data hold no batch; hint: about 200 images as they enter the network")


def examples_in(batch: Any) -> int:
    """Return the number of examples of a batch."""
    return int(_tensors(batch)[0].shape[0])


def first_examples(batch: Any) -> Any:
    """Return the first two examples of a batch, in its own form."""
    return _cut(batch, slice(_EXAMPLES), examples_in(batch))


def parts_of(batch: Any) -> Iterator[Any]:
    """Return a batch in parts of so few examples that what a network keeps for derivatives stays small."""
    count = examples_in(batch)
    step = max(1, _PART_ELEMENTS // max(1, sum(tensor.numel() for tensor in _tensors(batch)) // count))
    for start in range(0, count, step):
        yield batch if step >= count else _cut(batch, slice(start, start + step), count)


def called_with(model: nn.Module, batch: Any) -> Any:
    """Return what a network gives for a batch, which is moved to the network's device.

    Raises:
        DataError: the network does not accept it.
    """
    positional, named = call_arguments(on_device_of(model, batch))
    try:
        return model(*positional, **named)
    except FoldflatError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in _tensors(batch))
        raise DataError(
            f"{type(model).__name__} does not accept calibration data of shape {shapes}: "
            f"{next(iter(str(error).splitlines()), type(error).__name__)}\n"
            "hint: a batch is what the network is called with, without labels: a tensor, a tuple or a dict"
        ) from error


def logits_of(model: nn.Module, batch: Any) -> Tensor:
    """Return (n, outputs) what a network gives for a batch, in float32: its first output, flattened.

    Raises:
        DataError: the network does not accept it, or gives NaN or infinite numbers.
    """
    found = first_output(called_with(model, batch))
    logits = found.reshape(len(found), -1).float()
    if not bool(torch.isfinite(logits).all()):
        raise DataError(
            f"{type(model).__name__} gives NaN or infinite numbers for calibration data that are finite; "
            "hint: look at its weights, or at how the data are scaled"
        )
    return logits


def with_example(model: nn.Module, calibration: Any) -> tuple[Iterator[Any], Any]:
    """Return the batches of calibration data, and two examples on the network's device to trace it with.

    Raises:
        DataError: there is no batch, or the network does not accept the first or gives NaN for it.
    """
    iterator = batches_of(calibration)
    first = next(iterator)
    example = on_device_of(model, first_examples(first))
    with inference_mode_of(model):
        logits_of(model, example)
    return itertools.chain([first], iterator), example


def run_batches(model: nn.Module, batches: Iterable[Any]) -> int:
    """Send batches through a network in eval mode; return the number of examples.

    Raises:
        DataError: the network does not accept a batch.
    """
    examples = 0
    with inference_mode_of(model):
        for batch in batches:
            called_with(model, batch)
            examples += examples_in(batch)
    return examples


@contextmanager
def watched_inputs(model: nn.Module, watchers: Mapping[str, Callable[[Tensor], None]]) -> Iterator[None]:
    """Call a function with every input of some layers, by module name, while the block runs."""
    with ExitStack() as stack:
        for name, watcher in watchers.items():
            handle = model.get_submodule(name).register_forward_pre_hook(_hook(watcher))
            stack.callback(handle.remove)
        yield


def _hook(watcher: Callable[[Tensor], None]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def watch(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        watcher(inputs[0].detach())

    return watch


def _check(batch: Any, number: int) -> None:
    tensors = _tensors(batch)
    if not tensors or not tensors[0].ndim or not len(tensors[0]):
        raise DataError(f"batch {number} of the calibration data is empty; hint: tensors whose first axis is examples")
    for tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"batch {number} of the calibration data holds NaN or infinite numbers")


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def _cut(batch: Any, part: slice, count: int) -> Any:
    """Return some examples of a batch; a tensor of another length is no list of examples and stays whole."""
    if isinstance(batch, Tensor):
        return batch[part] if batch.ndim and len(batch) == count else batch
    if isinstance(batch, Mapping):
        return {name: _cut(value, part, count) for name, value in batch.items()}
    return tuple(_cut(value, part, count) for value in batch) if isinstance(batch, (tuple, list)) else batch
