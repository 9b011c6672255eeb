"""Saliencies: scores of channels without a theorem, the rivals of sensitivities."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from foldflat.errors import RecipeError
from foldflat.filters.calibration import batches_of, examples_in, logits_of
from foldflat.model.channels import ChannelMap, eval_mode_of
from foldflat.randomness import torch_generator

__all__ = ["batchnorm_scales", "filter_norms", "random_scores", "taylor_scores"]


def filter_norms(model: nn.Module, channels: ChannelMap, power: int) -> Tensor:
    """Return (n_channels,) the l_p norm of each channel's filters, in shares of the layer's mean, mean over layers.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (p = 1); He et al., IJCAI 2018 (p = 2).
    """

    def norms(weights: Tensor) -> Tensor:
        return weights.abs().pow(power).sum(1).pow(1 / power)

    return _over_producers(model, channels, lambda weight: norms(weight.detach()))


def batchnorm_scales(model: nn.Module, channels: ChannelMap) -> Tensor:
    """Return (n_channels,) the absolute scale of the batch norms behind each channel, mean over norms.

    Raises:
        RecipeError: a group has no batch norm with a scale.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017.
    """
    totals, counts = _zeros(channels), _zeros(channels)
    for layer in channels.layers.values():
        scale: Any = getattr(model.get_submodule(layer.name), "weight", None)
        if layer.op == "norm" and scale is not None and layer.inputs is not None:
            _add(totals, counts, layer.inputs, scale.detach().abs().double().cpu())
    for group in channels.free_groups:
        if not bool(counts[group.channels].all()):
            raise RecipeError(
                f"`{group.name}` has no batch norm behind it, so its filters have no scale to be scored by; "
                f'hint: exclude=("{group.name}",), or another method'
            )
    return totals / counts.clamp_min(1)


def taylor_scores(model: nn.Module, channels: ChannelMap, calibration: Any) -> tuple[Tensor, int]:
    """Return (n_channels,) the squared first-order change of the loss without a channel's filters; and the examples.

    The loss is the cross-entropy against the network's own predictions; squares are averaged over batches and summed
    over layers. What a network keeps for derivatives grows with the size of a batch.

    Raises:
        DataError: the data are missing, empty, not finite, or not what the network accepts.
        RecipeError: the network gives a single number.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, equation 8.
    """
    scores = _zeros(channels)
    sizes: list[int] = []
    for gradients in _gradients(model, calibration, sizes):
        scores += _over_producers(model, channels, lambda weight: weight.sum(1).square(), gradients, relative=False)
    return scores / len(sizes), sum(sizes)


def random_scores(channels: ChannelMap, seed: int) -> Tensor:
    """Return (n_channels,) uniform draws."""
    return torch.rand(channels.n_channels, generator=torch_generator(seed), dtype=torch.float64)


def _over_producers(
    model: nn.Module,
    channels: ChannelMap,
    score: Any,
    gradients: dict[str, Tensor] | None = None,
    *,
    relative: bool = True,
) -> Tensor:
    """Score every filter (out_channels, numbers), weights or weights x gradients; combine over layers by channel."""
    totals, counts = _zeros(channels), _zeros(channels)
    for layer in channels.layers.values():
        if layer.op == "norm" or layer.outputs is None:
            continue
        module = model.get_submodule(layer.name)
        name = f"{layer.name}.weight"
        weight: Any = module.weight if gradients is None else gradients[name]
        filters = _filters(module, weight).double().cpu()
        values = score(filters)
        _add(totals, counts, layer.outputs, values / values.mean().clamp_min(1e-300) if relative else values)
    return totals / counts.clamp_min(1) if relative else totals


def _filters(module: nn.Module, weight: Tensor) -> Tensor:
    """Return (out_channels, numbers of each filter)."""
    if not getattr(module, "transposed", False):
        return weight.flatten(1)
    groups = int(module.groups)  # type: ignore[arg-type]
    by_group: Tensor = weight.unflatten(0, (groups, -1)).transpose(1, 2)
    return by_group.flatten(0, 1).flatten(1)


def _gradients(model: nn.Module, calibration: Any, sizes: list[int]) -> Iterator[dict[str, Tensor]]:
    """Yield by weight its product with the gradient of each batch's loss; append the batch's number of examples."""
    weights = {name: tensor for name, tensor in model.named_parameters() if tensor.ndim > 1}
    required = {name: tensor.requires_grad for name, tensor in weights.items()}
    try:
        for tensor in weights.values():
            tensor.requires_grad_(True)
        with eval_mode_of(model):
            for batch in batches_of(calibration):
                sizes.append(examples_in(batch))
                with torch.enable_grad():
                    loss = _own_loss(model, batch)
                found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                yield {
                    name: torch.zeros_like(weight) if gradient is None else (gradient * weight).detach()
                    for (name, weight), gradient in zip(weights.items(), found, strict=True)
                }
    finally:
        for name, tensor in weights.items():
            tensor.requires_grad_(required[name])


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy against the network's own predictions."""
    logits = logits_of(model, batch)
    if logits.shape[1] == 1:
        raise RecipeError(
            f"{type(model).__name__} gives one number for each example, which has no classes to be sure "
            'of, so "taylor" has no loss; hint: another method'
        )
    return F.cross_entropy(logits, logits.argmax(1))


def _add(totals: Tensor, counts: Tensor, ids: Tensor, values: Tensor) -> None:
    totals.index_add_(0, ids, values)
    counts.index_add_(0, ids, torch.ones_like(values))


def _zeros(channels: ChannelMap) -> Tensor:
    return torch.zeros(channels.n_channels, dtype=torch.float64)
