"""Estimate the running statistics of batch normalisation anew, as a pruned network needs."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from foldflat.errors import DataError
from foldflat.evaluate.isolation import random_state_restored

__all__ = ["recalibrate_batchnorm"]


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Tensor | Mapping[str, Tensor]]) -> int:
    """Replace the running mean and variance of each batch normalisation by the average over unlabelled batches.

    Removed channels shift what the layers after them see; a few hundred images set this right without training.
    Every batch counts alike, so they should be of one size, and of 32 images or more. Everything else, dropout
    among it, computes in eval mode; weights, modes and momenta stay as they are.

    Args:
        model: changed in place; on any device.
        batches: inputs as the model takes them, tensors or dicts of tensors.

    Returns:
        The number of layers with new statistics; 0 where the model has none that keeps them.

    Raises:
        DataError: no batches, or statistics that come out NaN or infinite; the old ones are then in place.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    count = 0
    with random_state_restored(), _estimating(model, layers):
        for batch in batches if layers else ():
            _run(model, batch)
            count += 1
        if layers and not count:
            raise DataError("no batches to estimate statistics from\nhint: give at least one batch of inputs")
        for name, layer in model.named_modules():
            if layer in layers and not _is_finite(layer):
                raise DataError(f"the statistics of {name!r} became NaN or infinite\nhint: look for NaN in the batches")
    return len(layers)


def _run(model: nn.Module, batch: Tensor | Mapping[str, Tensor]) -> None:
    device = next(model.parameters()).device
    if isinstance(batch, Tensor):
        model(batch.to(device))
    else:
        model(**{name: tensor.to(device) for name, tensor in batch.items()})


def _is_finite(layer: Any) -> bool:
    return bool(torch.isfinite(layer.running_mean).all() and torch.isfinite(layer.running_var).all())


@contextlib.contextmanager
def _estimating(model: nn.Module, layers: list[Any]) -> Iterator[None]:
    """Let `layers` average what they see from nothing; on an error, give their statistics back."""
    modes = {module: module.training for module in model.modules()}
    before = [(layer.momentum, {name: tensor.clone() for name, tensor in layer.named_buffers()}) for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for the cumulative average
        layer.train()
    try:
        yield
    except BaseException:
        for layer, (_, statistics) in zip(layers, before, strict=True):
            layer.load_state_dict(statistics, strict=False)
        raise
    finally:
        for layer, (momentum, _) in zip(layers, before, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
