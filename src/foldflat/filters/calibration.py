"""Calibration data: one batch or many, checked once, and the inputs of layers as they pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foldflat.errors import DataError
from foldflat.model.channels import call_arguments, inference_mode_of

__all__ = ["batches_of", "examples_in", "first_examples", "run_batches", "watched_inputs"]

_EXAMPLES = 2


def batches_of(calibration: Any) -> Iterator[Any]:
    """Return the batches of calibration data: a tensor, tuple or dict of tensors is one, any other iterable holds them.

    Raises:
        DataError: there are none, or one is empty or holds NaN or infinite numbers.
    """
    batches = [calibration] if isinstance(calibration, (Tensor, Mapping, tuple)) else calibration
    if calibration is None:
        raise DataError("no calibration data are given; hint: about 200 images as they enter the network, no labels")
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
    if isinstance(batch, Tensor):
        return batch[:_EXAMPLES]
    if isinstance(batch, Mapping):
        return {name: first_examples(value) for name, value in batch.items()}
    return tuple(first_examples(value) for value in batch) if isinstance(batch, (tuple, list)) else batch


def run_batches(model: nn.Module, batches: Iterator[Any]) -> int:
    """Send batches through a network in eval mode, on its device; return the number of examples.

    Raises:
        DataError: the network does not accept a batch.
    """
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    examples = 0
    with inference_mode_of(model):
        for batch in batches:
            positional, named = call_arguments(_moved(batch, device))
            try:
                model(*positional, **named)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                shapes = ", ".join(str(tuple(tensor.shape)) for tensor in _tensors(batch))
                raise DataError(
                    f"{type(model).__name__} does not accept calibration data of shape {shapes}: "
                    f"{str(error).splitlines()[0]}"
                ) from error
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


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: _moved(value, device) for name, value in batch.items()}
    return tuple(_moved(value, device) for value in batch) if isinstance(batch, (tuple, list)) else batch
