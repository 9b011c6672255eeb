"""Bounds of the mean of a risk: published values, slow oracles, what they must not depend on, errors."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from foldflat.certify import (
    bernstein_upper_bound,
    betting_p_value,
    betting_upper_bound,
    binomial_lower_bound,
    binomial_p_value,
    binomial_upper_bound,
)
from foldflat.errors import DataError, RecipeError


@pytest.mark.parametrize(
    ("failures", "n", "delta", "low", "high"),
    [
        (0, 10, 0.05, 0.0, 1 - 0.05**0.1),  # by hand
        (10, 10, 0.05, 0.05**0.1, 1.0),
        (5, 10, 0.025, 0.1871, 0.8129),  # Clopper and Pearson's charts, and any table of 95 % limits
        (4, 20, 0.025, 0.0573, 0.4366),
        (1, 100, 0.025, 0.0003, 0.0545),
    ],
)
def test_exact_limits_are_those_of_the_tables(failures: int, n: int, delta: float, low: float, high: float) -> None:
    """To the four digits that are published."""
    assert binomial_upper_bound(failures, n, delta) == pytest.approx(high, abs=6e-5)
    assert binomial_lower_bound(failures, n, delta) == pytest.approx(low, abs=6e-5)


def test_at_the_exact_bound_the_tail_is_delta() -> None:
    """P(Bin(n, bound) <= failures) = delta, which is also the p-value there."""
    for failures, n in ((0, 7), (3, 50), (40, 872), (999, 1000)):
        bound = binomial_upper_bound(failures, n, 0.05)
        assert binom.cdf(failures, n, bound) == pytest.approx(0.05, rel=1e-9)
        assert binomial_p_value(failures, n, bound) == pytest.approx(0.05, rel=1e-9)


def slow_capital(orders: list[np.ndarray], limit: float, delta: float) -> float:
    """Follow a gambler through each order, bet by bet."""
    ends = []
    for values in orders:
        capital, mean_sum, square_sum, n = 1.0, 0.5, 0.25, len(values)
        for i, value in enumerate(values):
            variance = square_sum / (i + 1)
            bet = min(math.sqrt(2 * math.log(1 / delta) / (n * variance)), 0.9 / (1 - limit))
            capital *= 1 + bet * (limit - value)
            mean_sum += value
            square_sum += (value - mean_sum / (i + 2)) ** 2
        ends.append(capital)
    return float(np.mean(ends))


def test_the_capital_is_that_of_a_gambler_followed_bet_by_bet() -> None:
    """The oracle bets in a loop; the p-value is one over the mean capital of eight orders."""
    values = np.random.default_rng(3).beta(0.3, 4, size=60)
    generator = np.random.default_rng(0)
    orders = [values[generator.permutation(60)] for _ in range(8)]
    for limit in (0.1, 0.15, 0.3):
        expected = min(1.0, 1 / slow_capital(orders, limit, 0.05))
        assert betting_p_value(values, limit) == pytest.approx(expected, rel=1e-9)
    bound = betting_upper_bound(values)
    assert slow_capital(orders, bound, 0.05) == pytest.approx(20, rel=1e-6)


def test_bernstein_by_hand() -> None:
    """Values 0, 0, 0, 0.4: mean .1, variance .04; in [-1, 1] the last term doubles."""
    log = math.log(40)
    expected = 0.1 + math.sqrt(2 * 0.04 * log / 4) + 7 * log / 9
    assert expected > 1
    assert bernstein_upper_bound([0, 0, 0, 0.4]) == 1
    many = [0, 0, 0, 0.4] * 250
    variance = np.var(many, ddof=1)
    root = math.sqrt(2 * variance * log / 1000)
    assert bernstein_upper_bound(many) == pytest.approx(0.1 + root + 7 * log / (3 * 999))
    assert bernstein_upper_bound(many, low=-1) == pytest.approx(0.1 + root + 2 * 7 * log / (3 * 999))
    assert bernstein_upper_bound([0.0]) == 1


@pytest.mark.parametrize("bound", [betting_upper_bound, bernstein_upper_bound])
def test_bounds_move_with_range_and_confidence(bound: Callable[..., float]) -> None:
    """Scaling and shifting values and range scales and shifts the bound; more confidence never lowers it."""
    values = np.random.default_rng(0).random(200) * 0.2
    assert bound(values * 3 - 1, low=-1, high=2) == pytest.approx(3 * bound(values) - 1)
    bounds = [bound(values, delta=delta) for delta in (0.2, 0.05, 0.01, 1e-4)]
    assert bounds == sorted(bounds)
    assert values.mean() < bounds[0] < bounds[-1] <= 1


def test_rejecting_a_limit_and_bounding_below_it_are_the_same() -> None:
    """The p-value falls as the limit rises, and crosses delta at the bound."""
    values = np.random.default_rng(1).random(300) ** 4
    bound = betting_upper_bound(values)
    found = [betting_p_value(values, limit) for limit in np.linspace(0, 0.99, 60)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(found))
    assert betting_p_value(values, bound + 1e-6) < 0.05 < betting_p_value(values, bound - 1e-6)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: binomial_upper_bound(3, 2), DataError, "3 failures of 2 examples\nhint"),
        (lambda: binomial_upper_bound(0, 0), DataError, "at least one example"),
        (lambda: binomial_upper_bound(0.5, 2), DataError, "whole numbers"),  # type: ignore[arg-type]
        (lambda: binomial_upper_bound(0, 2, 0.0), RecipeError, "`delta` is 0.0\nhint: above 0"),
        (lambda: binomial_p_value(0, 2, 1.5), RecipeError, "the limit of a rate is 1.5"),
        (
            lambda: betting_upper_bound([0.2, 1.2]),
            DataError,
            "1 of 2 values are outside 0 to 1, the first 1.2 in row 1",
        ),
        (lambda: betting_upper_bound([np.nan]), DataError, "outside"),
        (lambda: betting_upper_bound([]), DataError, "at least one"),
        (lambda: betting_upper_bound([0.5], low=1, high=0), RecipeError, "range of the risk is 1 to 0"),
        (lambda: betting_p_value([0.5], 2.0), RecipeError, "the limit is 2.0\nhint: from 0 to 1"),
        (lambda: bernstein_upper_bound([[0.5]]), DataError, r"shape \(1, 1\)"),
    ],
)
def test_what_cannot_be_bounded_is_said(call: Callable[[], float], kind: type[Exception], message: str) -> None:
    """What was given, the limit, the way out."""
    with pytest.raises(kind, match=message):
        call()
