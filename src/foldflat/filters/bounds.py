"""What provable filter pruning promises, as functions: how many draws, channels and inputs, for which error and delta.

Setting (Liebenwein et al., Provable Filter Pruning for Efficient Neural Networks, ICLR 2020): the input channels of one
layer have sensitivities s_j, measured on a batch, with sum S; m channels are drawn with replacement, channel j with
probability p_j = s_j / S, and a drawn channel's weights are multiplied by n_j / (m p_j). Then, under a mild tail
condition on the channels' relative shares, with probability at least 1 - delta over the batch and the draws, the
layer's output z before its bias changes by at most epsilon (z+ + z-), for an input of the batch's distribution; z+ and
z- are the positive and negative parts that z is the difference of.

The constants are those of the authors' code. At the sizes that budgets ask for, the epsilon of a layer is often above
one: the bound then says nothing, and only the shape of the allocation is of use.
"""

import math

import torch
from torch import Tensor

from foldflat.errors import DataError, RecipeError

__all__ = [
    "checked_probabilities",
    "delta_supported",
    "draws_for_distinct",
    "dropped_mass_bound",
    "epsilon_supported",
    "expected_distinct",
    "inputs_needed",
    "samples_needed",
]

_K = 3.0
_TAIL = 3.0
_SUM_TOLERANCE = 1e-4
_BISECTIONS = 200


def expected_distinct(probabilities: Tensor, draws: float) -> float:
    """Return how many different channels `draws` draws with replacement bring on average: sum_j 1 - (1 - p_j)^m.

    Exact for independent draws and stable for tiny probabilities and huge numbers of draws.

    Args:
        probabilities: (c,), non-negative, with sum 1.
        draws: m, 0 or more; need not be an integer.

    Raises:
        DataError: `probabilities` are none.
        RecipeError: `draws` is negative.
    """
    if not draws >= 0:
        raise RecipeError(f"`draws` is {draws}, the least is 0; hint: count the draws with replacement")
    return _distinct(checked_probabilities(probabilities), draws)


def draws_for_distinct(probabilities: Tensor, distinct: float) -> float:
    """Return the real number of draws m whose expected number of different channels is `distinct`.

    The inverse of `expected_distinct`, to a relative 1e-12; its ceiling is the smallest integer that brings as many.
    Infinite for all channels of positive probability, unless that is a single one, which takes 1 draw.

    Args:
        probabilities: (c,), non-negative, with sum 1.
        distinct: from 0 to the number of channels of positive probability.

    Raises:
        DataError: `probabilities` are none.
        RecipeError: `distinct` is negative, or more channels than can be drawn.
    """
    p = checked_probabilities(probabilities)
    possible = int((p > 0).sum())
    if not 0 <= distinct <= possible:
        raise RecipeError(
            f"`distinct` is {distinct}, and {possible} of {len(p)} channels have a positive probability; "
            f"hint: ask for 0 to {possible}"
        )
    if possible == 1:
        return float(distinct > 0)
    if distinct == possible:
        return math.inf
    low, high = 0.0, 1.0
    while _distinct(p, high) < distinct:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if high - low <= 1e-13 * high:
            break
        low, high = (low, middle) if _distinct(p, middle) >= distinct else (middle, high)
    return high


def samples_needed(total_sensitivity: float, epsilon: float, delta: float, patches: int, kernel_area: int) -> int:
    """Return the draws m after which one layer keeps to a relative error of `epsilon`, but for probability `delta`.

    m = ceil(K (6 + 2 epsilon) alpha S / epsilon^2) with alpha = 2 C ln(8 (P + 1) kappa^2 / delta), K = C = 3. Theorem
    of the paper: Bernstein's inequality for each output and patch, and a union bound. Assumptions: see this module;
    the draws are independent of the input, and the sensitivities come from a batch of `inputs_needed` inputs.

    Args:
        total_sensitivity: S, the sum of the layer's sensitivities.
        epsilon: error relative to z+ + z-, above 0.
        delta: probability of failure, in (0, 1).
        patches: P, positions of the layer's window in one input; 1 for a linear layer.
        kernel_area: kappa^2, taps of the window; 1 for a linear layer.

    Raises:
        RecipeError: an argument is out of range.
    """
    _check_above_zero("epsilon", epsilon)
    scale = _scale(total_sensitivity, delta, patches, kernel_area)
    return math.ceil(scale * (6 + 2 * epsilon) / epsilon**2)


def epsilon_supported(total_sensitivity: float, draws: float, delta: float, patches: int, kernel_area: int) -> float:
    """Return the smallest relative error that `draws` draws support, but for probability `delta`.

    The inverse of `samples_needed`, without its ceiling: the positive root of m epsilon^2 = K alpha S (6 + 2 epsilon).
    From 1 on it says nothing that dropping every channel would not satisfy.

    Args:
        total_sensitivity: S, the sum of the layer's sensitivities.
        draws: m, above 0.
        delta: probability of failure, in (0, 1).
        patches: P, as `samples_needed` takes it.
        kernel_area: kappa^2, as `samples_needed` takes it.

    Raises:
        RecipeError: an argument is out of range.
    """
    _check_above_zero("draws", draws)
    ratio = _scale(total_sensitivity, delta, patches, kernel_area) / draws
    return ratio + math.sqrt(ratio * (ratio + 6))


def dropped_mass_bound(sensitivities: Tensor, kept: Tensor) -> float:
    """Return epsilon such that keeping `kept` as they are changes z by at most epsilon (z+ + z-).

    Deterministic, delta is 0: for every input that the sensitivities were measured on, each dropped channel makes up at
    most s_j of every sum of equal signs, so all of them together at most their sum, and never more than 1. For other
    inputs it holds as far as their channels' shares do not exceed the measured ones (the paper's tail condition, with
    probability 1 - delta over the batch).

    Args:
        sensitivities: (c,), of the window's sum; the largest tap's, as the authors' code has them, bound nothing.
        kept: int64 positions of the channels that stay.

    Raises:
        DataError: `sensitivities` are no shares, or `kept` has positions that do not exist.
    """
    s = sensitivities.detach().double().cpu()
    if s.dim() != 1 or not bool(((s >= 0) & (s <= 1)).all()):
        raise DataError(f"sensitivities of shape {tuple(s.shape)} are not (c,) numbers of [0, 1]; hint: `sensitivity`")
    kept = kept.detach().cpu()
    if len(kept) and not 0 <= int(kept.min()) <= int(kept.max()) < len(s):
        raise DataError(
            f"`kept` goes from {int(kept.min())} to {int(kept.max())}, the channels from 0 to {len(s) - 1}; "
            f"hint: give positions, not a mask"
        )
    dropped = torch.ones_like(s).index_fill(0, kept.long(), 0)
    return min(1.0, float((s * dropped).sum()))


def inputs_needed(filters_total: int, filters_most: int, delta: float) -> int:
    """Return how many inputs sensitivities must be measured on: ceil(3 ln(8 eta_* eta / delta)).

    With that many independent inputs, with probability at least 1 - delta the sensitivities of all layers bound the
    shares of a new input, under the paper's tail condition: a new share exceeds the largest of the batch rarely enough.

    Args:
        filters_total: eta, the filters of all layers.
        filters_most: eta_*, the filters of the widest layer.
        delta: probability of failure, in (0, 1).

    Raises:
        RecipeError: an argument is out of range.
    """
    _check_delta(delta)
    return math.ceil(3 * (_log_filters(filters_total, filters_most) - math.log(delta)))


def delta_supported(inputs: int, filters_total: int, filters_most: int) -> float:
    """Return the smallest delta that `inputs` inputs support, at most 1: min(1, 8 eta_* eta exp(-inputs / 3)).

    The inverse of `inputs_needed`, with its assumptions; 1 means that nothing is promised.

    Args:
        inputs: independent inputs that sensitivities were measured on, 0 or more.
        filters_total: eta, the filters of all layers.
        filters_most: eta_*, the filters of the widest layer.

    Raises:
        RecipeError: an argument is out of range.
    """
    if inputs < 0:
        raise RecipeError(f"`inputs` is {inputs}, the least is 0; hint: count the calibration inputs")
    return math.exp(min(0.0, _log_filters(filters_total, filters_most) - inputs / 3))


def checked_probabilities(probabilities: Tensor) -> Tensor:
    """Return `probabilities` (c,) in float64 on the processor, with sum 1.

    Raises:
        DataError: there is none, one is negative or not finite, or their sum differs from 1 by more than 1e-4.
    """
    p = probabilities.detach().double().cpu()
    total = float(p.sum())
    if p.dim() != 1 or not bool((p >= 0).all()) or not abs(total - 1) <= _SUM_TOLERANCE:
        least = float(p.min()) if p.numel() else math.nan
        raise DataError(
            f"probabilities of shape {tuple(p.shape)} with sum {total:.6g} and least {least:.6g} are none; "
            f"hint: divide the sensitivities (c,) by their sum, which is above 0 where a channel is active"
        )
    return p / total


def _distinct(probabilities: Tensor, draws: float) -> float:
    if draws == 0:
        return 0.0
    return float(torch.expm1(draws * torch.log1p(-probabilities)).sum().neg())


def _scale(total_sensitivity: float, delta: float, patches: int, kernel_area: int) -> float:
    """Return K alpha S."""
    _check_above_zero("total_sensitivity", total_sensitivity)
    _check_delta(delta)
    for name, value in (("patches", patches), ("kernel_area", kernel_area)):
        if value < 1:
            raise RecipeError(f"`{name}` is {value}, the least is 1; hint: a linear layer has 1")
    alpha = 2 * _TAIL * (math.log(8 * (patches + 1) * kernel_area) - math.log(delta))
    return _K * alpha * total_sensitivity


def _log_filters(total: int, most: int) -> float:
    if not 1 <= most <= total:
        raise RecipeError(
            f"{most} filters in the widest layer and {total} in all is not possible; hint: the first is at least 1, "
            f"the second no less than the first"
        )
    return math.log(8) + math.log(most) + math.log(total)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise RecipeError(f"`delta` is {delta}, a probability of failure above 0 and below 1; hint: 0.05 is usual")


def _check_above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise RecipeError(f"`{name}` is {value}; hint: give a finite number above 0")
