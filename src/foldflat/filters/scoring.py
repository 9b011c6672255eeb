"""From a method and calibration data to a score of every channel."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foldflat.filters.calibration import batches_of, run_batches, watched_inputs
from foldflat.filters.covariances import Moments, measure_moments
from foldflat.filters.elimination import Elimination, eliminate
from foldflat.filters.heuristics import batchnorm_scales, filter_norms, random_scores, taylor_scores
from foldflat.filters.recipe import FilterRecipe
from foldflat.filters.saliency import SensitivityMeter
from foldflat.model.channels import ChannelMap, Layer

__all__ = ["Scores", "score_channels"]


@dataclass
class Scores:
    """Hold what calibration says.

    Attributes:
        values: (n_channels,) float64, the larger the more a channel matters.
        examples: of the calibration data; 0 where none were needed.
        means: by layer, (inputs,) the mean of every input channel or column, where removed channels are compensated.
        moments: by layer, where weights are fitted again.
        eliminations: of the free groups, in their order, where the method removes channels one by one.
    """

    values: Tensor
    examples: int = 0
    means: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    eliminations: list[Elimination] = field(default_factory=list)


def score_channels(model: nn.Module, channels: ChannelMap, recipe: FilterRecipe, calibration: Any) -> Scores:
    """Score every channel by the recipe's method.

    Args:
        model: the network, left as it is.
        channels: of this model.
        recipe: what is asked.
        calibration: one batch or an iterable of batches, unlabelled.

    Raises:
        DataError: the data are missing, empty, not finite, or not what the network accepts.
        RecipeError: the method does not apply to this network.
    """
    passes = [recipe.method in ("pfp", "taylor", "reconstruction"), recipe.asked_refit, recipe.compensate]
    # an iterator can be read only once
    batches = list(batches_of(calibration)) if sum(passes) > 1 else calibration
    scores = Scores(torch.zeros(channels.n_channels, dtype=torch.float64))
    if recipe.method == "pfp" or (recipe.compensate and not recipe.asked_refit):
        scores = _measured(model, channels, recipe, batches)
    if recipe.asked_refit or recipe.method == "reconstruction":
        scores.moments, scores.examples = measure_moments(model, channels, channels.free_channels, batches, recipe.seed)
    if recipe.method == "reconstruction":
        _eliminate(channels, scores)
    elif recipe.method != "pfp":
        scores.values = {
            "l1": lambda: filter_norms(model, channels, 1),
            "l2": lambda: filter_norms(model, channels, 2),
            "batchnorm": lambda: batchnorm_scales(model, channels),
            "taylor": lambda: _taylor(model, channels, batches, scores),
            "random": lambda: random_scores(channels, recipe.seed),
        }[recipe.method]()
    return scores


def _taylor(model: nn.Module, channels: ChannelMap, batches: Any, scores: Scores) -> Tensor:
    values, scores.examples = taylor_scores(model, channels, batches)
    return values


def _eliminate(channels: ChannelMap, scores: Scores) -> None:
    for group in channels.free_groups:
        found = eliminate(group.channels, [scores.moments[name] for name in group.consumers])
        scores.eliminations.append(found)
        scores.values[group.channels] = found.scores


def _measured(model: nn.Module, channels: ChannelMap, recipe: FilterRecipe, calibration: Any) -> Scores:
    """Watch the inputs of every layer that reads channels which may go."""
    meters = {
        name: _Meter(model.get_submodule(name), channels.layers[name], recipe)
        for name in channels.readers_of(channels.free_channels)
    }
    with watched_inputs(model, {name: meter.update for name, meter in meters.items()}):
        examples = run_batches(model, batches_of(calibration))
    values = torch.zeros(channels.n_channels, dtype=torch.float64)
    for meter in meters.values():
        meter.spread(values)
    means = {name: meter.mean() for name, meter in meters.items()} if recipe.compensate else {}
    return Scores(values, examples, means)


class _Meter:
    """Measure one layer's inputs: sensitivities, means, or both."""

    def __init__(self, module: nn.Module, layer: Layer, recipe: FilterRecipe) -> None:
        assert layer.inputs is not None
        # a flatten gives a linear layer several columns of each channel, which count together
        self._ids, columns = torch.unique(layer.inputs, return_inverse=True)
        linear = isinstance(module, nn.Linear)
        repeated = linear and len(self._ids) < len(columns)
        self._inputs = layer.inputs if not repeated else self._ids
        self._axis, self._groups = (-1, 1) if linear else (1, int(module.groups))  # type: ignore[arg-type]
        self._sums: Tensor | None = None
        self._count = 0
        self._averaged = recipe.compensate
        self._meter = None
        if recipe.method == "pfp":
            self._meter = SensitivityMeter(module, channels=columns if repeated else None)

    def update(self, inputs: Tensor) -> None:
        if self._meter is not None:
            self._meter.update(inputs)
        if self._averaged:
            flat = inputs.movedim(self._axis, -1).flatten(0, -2)
            total = flat.sum(0, dtype=torch.float64).cpu()
            self._sums = total if self._sums is None else self._sums + total
            self._count += len(flat)

    def spread(self, values: Tensor) -> None:
        """Raise the scores (n_channels,) of the channels that this layer reads to what it says of them."""
        if self._meter is None:
            return
        rows = len(self._inputs) // self._groups
        for ids, found in zip(self._inputs.split(rows), self._meter.value.double().cpu().split(rows), strict=True):
            # inputs of one output that go together: what they lose together is at most the sum of their shares
            together = torch.zeros_like(values).index_add_(0, ids, found).clamp_max_(1)
            torch.maximum(values, together, out=values)

    def mean(self) -> Tensor:
        """Return (inputs,) the mean of each input channel, for a linear layer of each column."""
        assert self._sums is not None
        return self._sums / self._count
