"""What a distance costs: powers and M-estimators, as concave functions of the squared distance.

For a concave phi, phi(s) <= phi(t) + phi'(t) (s - t): fitting squares weighted by phi'(t) lowers the sum of phi.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.errors import RecipeError

__all__ = ["LOSSES", "Loss", "loss_named", "typical_scale"]

LOSSES = ("power", "huber", "cauchy", "geman-mcclure", "welsch", "tukey", "truncated")

_NORMAL_MEDIAN = 1.4826
# times the scale of normal noise: 95 % efficiency at the normal distribution where that is defined
_TUNING = {
    "huber": 1.345,
    "cauchy": 2.385,
    "geman-mcclure": 3.0,
    "welsch": 2.985,
    "tukey": 4.685,
    "truncated": 2.795,
}


@dataclass(frozen=True)
class Loss:
    """Hold a cost of distances.

    Attributes:
        value: squared distances -> costs, increasing and concave.
        slope: its derivative: the weight that a row has in the next fit.
        scale: the distance beyond which rows count less; 0 for powers.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    scale: float = 0.0


def typical_scale(name: str, distances: Tensor, weights: Tensor) -> float:
    """Return the scale of a loss for residuals like these: its tuning constant x 1.4826 x their weighted median.

    Source: Rousseeuw and Leroy, "Robust Regression and Outlier Detection", 1987 (the median as scale of normal noise).
    """
    ordered, order = distances.sort()
    sums = weights[order].cumsum(0)
    middle = int(torch.searchsorted(sums, sums[-1:] / 2))
    return _TUNING[name] * _NORMAL_MEDIAN * float(ordered[middle])


def loss_named(name: str, *, power: float = 2.0, scale: float = 1.0, smallest: float = 0.0) -> Loss:
    """Return a loss of the distance r.

    power: r^power. huber: r^2 / 2 up to c, then c r - c^2 / 2. cauchy: c^2 / 2 log(1 + (r/c)^2). geman-mcclure:
    r^2 / 2 / (1 + (r/c)^2). welsch: c^2 / 2 (1 - exp(-(r/c)^2)). tukey: c^2 / 6 (1 - (1 - (r/c)^2)^3) up to c, then
    c^2 / 6. truncated: r^2 up to c, then c^2.

    Args:
        name: one of `LOSSES`.
        power: z in [1, 2], for "power".
        scale: c, for the others.
        smallest: squared distance that is added under a power below 2, whose slope at 0 is infinite.

    Raises:
        RecipeError: the name is unknown.
    """
    if name not in LOSSES:
        raise RecipeError(f"`loss` is {name!r}, which is unknown; hint: choose one of {', '.join(LOSSES)}")
    if name == "power":
        return _power(power, smallest)
    c = scale**2
    pairs: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "huber": (
            lambda s: torch.where(s <= c, s / 2, c**0.5 * s.sqrt() - c / 2),
            lambda s: torch.where(s <= c, 0.5, 0.5 * (c / s.clamp_min(c)).sqrt()),
        ),
        "cauchy": (lambda s: c / 2 * torch.log1p(s / c), lambda s: 0.5 / (1 + s / c)),
        "geman-mcclure": (lambda s: s / 2 / (1 + s / c), lambda s: 0.5 / (1 + s / c).square()),
        "welsch": (lambda s: -c / 2 * torch.expm1(-s / c), lambda s: 0.5 * torch.exp(-s / c)),
        "tukey": (
            lambda s: c / 6 * (1 - (1 - s / c).clamp_min(0) ** 3),
            lambda s: 0.5 * (1 - s / c).clamp_min(0).square(),
        ),
        "truncated": (lambda s: s.clamp_max(c), lambda s: (s <= c).to(s.dtype)),
    }
    return Loss(*pairs[name], scale)


def _power(power: float, smallest: float) -> Loss:
    if power == 2:
        return Loss(lambda s: s, torch.ones_like)
    half = power / 2
    return Loss(lambda s: (s + smallest) ** half, lambda s: half * (s + smallest) ** (half - 1))
