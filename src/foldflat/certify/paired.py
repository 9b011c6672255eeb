"""Exact bounds for a paired drop: the chance of getting worse minus the chance of getting better."""

import numbers

import numpy as np
from numpy.typing import NDArray

from foldflat.certify.bounds import binomial_lower_bound, binomial_upper_bound, check_delta
from foldflat.errors import DataError, RecipeError

__all__ = ["paired_p_value", "paired_upper_bound"]

_SHARE = 0.01
_CELLS = 128
_DEVIATIONS = 8.0
_BISECTIONS = 24
_ROUNDING = 1e-9


def paired_p_value(worse: int, better: int, n: int, limit: float, *, delta: float = 0.05) -> float:
    """Return a p-value of the hypothesis that P(worse) - P(better) is at least `limit`.

    Each of n independent examples got worse, got better, or neither: right before and wrong after, the reverse, or the
    same. With D worse and G better the evidence is T = (D - G - n limit) / sqrt(D + G + n |limit|), the smaller the
    stronger, and the p-value the largest probability under the hypothesis of evidence as strong as that seen. With
    b = P(better) unknown it is maximised over a confidence interval of b of level delta / 100, which is added (Berger
    and Boos, JASA 1994); since T rises with D and falls with G, the ends of each of 128 parts of that interval bound
    what lies between.

    Args:
        worse, better: how many of n examples.
        n: examples.
        limit: of the drop, from -1 to 1.
        delta: level at which the interval of b is best; the p-value holds at every level.

    Raises:
        DataError: counts that are no counts.
        RecipeError: a limit outside [-1, 1], delta outside (0, 1).
    """
    _check(worse, better, n)
    check_delta(delta)
    if not -1 <= limit <= 1:
        raise RecipeError(f"the limit of a drop is {limit}\nhint: from -1 to 1; 0.005 is half a point")
    gamma = _SHARE * delta
    least = binomial_lower_bound(better, n, gamma / 2)
    most = min((1 - limit) / 2, binomial_upper_bound(better, n, gamma / 2))
    if least > most:  # no b of the interval allows so large a drop
        return gamma
    edges = np.linspace(least, most, _CELLS + 1)
    evidence = _evidence(worse, better, n, limit)
    # where b is below a gain that is the limit, every drop is as large, the least of them that of nobody worse
    losing = (edges[:-1] + limit).clip(0)
    return min(1.0, float(_chances(evidence, n, limit, losing, edges[1:]).max()) + gamma)


def paired_upper_bound(worse: int, better: int, n: int, delta: float = 0.05) -> float:
    """Return the largest drop that `paired_p_value` does not reject at level delta: P(drop > bound) <= delta.

    Args and errors: see `paired_p_value`.
    """
    _check(worse, better, n)
    check_delta(delta)
    below, above = (worse - better) / n, 1.0
    if paired_p_value(worse, better, n, above, delta=delta) > delta:
        return above
    for _ in range(_BISECTIONS):  # the p-value falls as the limit rises
        middle = (below + above) / 2
        rejected = paired_p_value(worse, better, n, middle, delta=delta) <= delta
        below, above = (below, middle) if rejected else (middle, above)
    return above


def _check(worse: int, better: int, n: int) -> None:
    whole = all(isinstance(value, numbers.Integral) for value in (worse, better, n))
    if not whole or min(worse, better) < 0 or n < 1 or worse + better > n:
        raise DataError(
            f"{worse} examples worse and {better} better of {n}\nhint: whole numbers, together at most n, n at least 1"
        )


def _evidence(worse: int, better: int, n: int, limit: float) -> float:
    spread = worse + better + n * abs(limit)
    return 0.0 if spread == 0 else (worse - better - n * limit) / spread**0.5


def _chances(
    evidence: float, n: int, limit: float, worse: NDArray[np.float64], better: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return (c,) chances, or slightly more, of evidence at least as strong, for chances (c,) of worse and better."""
    from scipy.stats import binom

    gains = _likely(n, float(better.min()), float(better.max()))
    # T <= evidence is a quadratic inequality in the root of D + G + n |limit|
    constant = 2 * gains + n * (abs(limit) + limit)
    roots = (evidence + np.sqrt(evidence**2 + 4 * constant)) / 2
    losses = np.floor(np.square(np.maximum(roots, 0)) - gains - n * abs(limit) + _ROUNDING)
    own = np.clip(worse / (1 - better).clip(1e-300), 0, 1)[:, None]
    inside = binom.pmf(gains, n, better[:, None])
    found = (inside * binom.cdf(losses, n - gains, own)).sum(1)
    chances: NDArray[np.float64] = found + (1 - inside.sum(1)).clip(0)
    return chances


def _likely(n: int, low: float, high: float) -> NDArray[np.int64]:
    """Return what Bin(n, rate) is likely to be for rates from low to high, but for tails of about 1e-12."""
    first, last = (n * rate for rate in (low, high))
    spread = _DEVIATIONS * max(first, last, 4.0) ** 0.5 + _DEVIATIONS
    return np.arange(max(0, int(first - spread)), min(n, int(last + spread) + 1) + 1)
