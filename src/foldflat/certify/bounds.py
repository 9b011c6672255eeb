"""Upper confidence bounds and p-values for the mean of a bounded risk, from independent examples.

Every function tests or bounds R, the mean of a random variable of which n independent values were seen. A bound U has
P(R > U) <= delta, a p-value p of the hypothesis R >= limit has P(p <= delta) <= delta, for every distribution in the
stated range and every n; nothing is asymptotic.
"""

import math
import numbers

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foldflat.errors import DataError, RecipeError

__all__ = [
    "bernstein_upper_bound",
    "betting_p_value",
    "betting_upper_bound",
    "binomial_lower_bound",
    "binomial_p_value",
    "binomial_upper_bound",
]

_ORDERS = 8
_LARGEST_SHARE = 0.9
_BISECTIONS = 40


def binomial_upper_bound(failures: int, n: int, delta: float = 0.05) -> float:
    """Return the exact one-sided bound: the rate p with P(Bin(n, p) <= failures) = delta; 1 if all failed.

    Source: Clopper and Pearson, Biometrika 1934.

    Args:
        failures: how many of n examples failed.
        n: examples.
        delta: chance that the bound is too low.

    Raises:
        DataError: failures outside 0..n, or no examples.
        RecipeError: delta outside (0, 1).
    """
    from scipy.stats import beta

    _check_counts(failures, n)
    check_delta(delta)
    return 1.0 if failures == n else float(beta.ppf(1 - delta, failures + 1, n - failures))


def binomial_lower_bound(failures: int, n: int, delta: float = 0.05) -> float:
    """Return the exact one-sided bound from below: the rate p with P(Bin(n, p) >= failures) = delta; 0 for none.

    Args and errors: see `binomial_upper_bound`.
    """
    from scipy.stats import beta

    _check_counts(failures, n)
    check_delta(delta)
    return 0.0 if failures == 0 else float(beta.ppf(delta, failures, n - failures + 1))


def binomial_p_value(failures: int, n: int, limit: float) -> float:
    """Return P(Bin(n, limit) <= failures), a p-value of the hypothesis that the rate of failures is at least `limit`.

    Raises:
        DataError: failures outside 0..n, or no examples.
        RecipeError: a limit outside [0, 1].
    """
    from scipy.stats import binom

    _check_counts(failures, n)
    if not 0 <= limit <= 1:
        raise RecipeError(f"the limit of a rate is {limit}\nhint: from 0 to 1")
    return float(binom.cdf(failures, n, limit))


def betting_p_value(
    values: ArrayLike, limit: float, *, low: float = 0.0, high: float = 1.0, delta: float = 0.05
) -> float:
    """Return a p-value of the hypothesis that the mean is at least `limit`: one over the capital of bets against it.

    A gambler who bets on values below the limit, never more than the capital, multiplies it by at most one on average
    if the hypothesis holds; so it exceeds 1 / p with chance p at most (Markov). How much is bet follows from the
    variance of the values seen before. The capital is the mean over eight orders of the values, drawn with a fixed
    seed, so that the order of a file does not matter much.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 2024 (the
    predictable plug-in bets of their section 4, for a number of values that is known before).

    Args:
        values: (n,), each from `low` to `high`.
        limit: of the mean, in [low, high].
        low, high: range of the values.
        delta: level at which the bets are best; the p-value holds at every level.

    Raises:
        DataError: no values, values outside the range or not finite.
        RecipeError: an empty range, a limit outside it, delta outside (0, 1).
    """
    scaled = _scaled(values, low, high)
    check_delta(delta)
    if not low <= limit <= high:
        raise RecipeError(f"the limit is {limit}\nhint: from {low:g} to {high:g}, the range of the risk")
    return min(1.0, math.exp(-_log_capital(_bets(scaled, delta), (limit - low) / (high - low))))


def betting_upper_bound(values: ArrayLike, *, low: float = 0.0, high: float = 1.0, delta: float = 0.05) -> float:
    """Return the largest limit that `betting_p_value` does not reject at level delta.

    Args, errors and source: see `betting_p_value`.
    """
    scaled = _scaled(values, low, high)
    check_delta(delta)
    bets, needed = _bets(scaled, delta), math.log(1 / delta)
    below, above = 0.0, 1.0
    if _log_capital(bets, above) < needed:
        return high
    for _ in range(_BISECTIONS):  # the capital rises with the limit
        middle = (below + above) / 2
        below, above = (middle, above) if _log_capital(bets, middle) < needed else (below, middle)
    return low + (high - low) * above


def bernstein_upper_bound(values: ArrayLike, *, low: float = 0.0, high: float = 1.0, delta: float = 0.05) -> float:
    """Return mean + sqrt(2 V l / n) + 7 l (high - low) / (3 (n - 1)), with l = ln(2 / delta): empirical Bernstein.

    V is the sample variance (n - 1); `high` where that is less, and for a single value.

    Source: Maurer and Pontil, "Empirical Bernstein bounds and sample variance penalization", COLT 2009, theorem 4.

    Args and errors: see `betting_p_value`.
    """
    scaled = _scaled(values, low, high)
    check_delta(delta)
    n = len(scaled)
    if n == 1:
        return high
    log = math.log(2 / delta)
    variance = float(scaled.var(ddof=1))
    bound = float(scaled.mean()) + math.sqrt(2 * variance * log / n) + 7 * log / (3 * (n - 1))
    return low + (high - low) * min(1.0, bound)


def check_delta(delta: float) -> None:
    """Raise RecipeError for a chance of error outside (0, 1)."""
    if not 0 < delta < 1:
        raise RecipeError(f"`delta` is {delta}\nhint: above 0 and below 1; 0.05 is 95 % confidence")


def _check_counts(failures: int, n: int) -> None:
    whole = all(isinstance(value, numbers.Integral) for value in (failures, n))
    if not whole or n < 1 or not 0 <= failures <= n:
        raise DataError(
            f"{failures} failures of {n} examples\nhint: whole numbers, at least one example, 0 to n failures"
        )


def _scaled(values: ArrayLike, low: float, high: float) -> NDArray[np.float64]:
    """Return values as shares of their range."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RecipeError(f"the range of the risk is {low} to {high}\nhint: two finite numbers, the lower first")
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise DataError(f"values of shape {found.shape}\nhint: (n,), at least one")
    wrong = np.flatnonzero(~((found >= low) & (found <= high)))
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(found)} values are outside {low:g} to {high:g}, the first {found[wrong[0]]:g} in "
            f"row {wrong[0]}\nhint: a range that holds every possible value, not only those seen"
        )
    return (found - low) / (high - low)


def _bets(scaled: NDArray[np.float64], delta: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (orders, n) values and the shares of the capital that are bet before each is seen."""
    n = len(scaled)
    generator = np.random.default_rng(0)
    ordered = np.stack([scaled[generator.permutation(n)] for _ in range(_ORDERS)])
    seen = np.arange(1, n + 1)
    means = (0.5 + ordered.cumsum(1)) / (seen + 1)
    variances = (0.25 + np.square(ordered - means).cumsum(1)) / (seen + 1)
    before = np.concatenate([np.full((_ORDERS, 1), 0.25), variances[:, :-1]], axis=1)
    return ordered, np.sqrt(2 * math.log(1 / delta) / (n * before))


def _log_capital(bets: tuple[NDArray[np.float64], NDArray[np.float64]], limit: float) -> float:
    """Return the logarithm of what a capital of one becomes by betting on values below a limit in [0, 1]."""
    values, shares = bets
    most = _LARGEST_SHARE / (1 - limit) if limit < 1 else math.inf
    logs = np.log1p(np.minimum(shares, most) * (limit - values)).sum(1)
    return float(np.logaddexp.reduce(logs) - math.log(len(logs)))
