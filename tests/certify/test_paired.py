"""Paired drops: the p-value against all that could have happened, and its bound."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import multinomial

from foldflat.certify import betting_upper_bound, binomial_upper_bound, paired_p_value, paired_upper_bound
from foldflat.errors import DataError, RecipeError

N = 11
PAIRS = [(d, g) for d, g in itertools.product(range(N + 1), repeat=2) if d + g <= N]


def chances(worse: float, better: float) -> np.ndarray:
    """Return the probability of every pair of counts."""
    rest = max(0.0, 1 - worse - better)
    found: np.ndarray = multinomial.pmf([(d, g, N - d - g) for d, g in PAIRS], N, [worse, better, rest])
    return found


@pytest.mark.parametrize("limit", [-0.3, 0.0, 0.1, 0.4])
def test_a_true_hypothesis_is_rejected_with_chance_delta_at_most(limit: float) -> None:
    """All outcomes of 11 examples, over chances on the edge of the hypothesis and beyond; exact, nothing is drawn."""
    p_values = np.array([paired_p_value(d, g, N, limit) for d, g in PAIRS])
    largest = dict.fromkeys((0.01, 0.05, 0.2, 0.5), 0.0)
    for drop in (limit, limit + 0.05, limit + 0.3):
        for better in np.linspace(max(0.0, -drop), (1 - drop) / 2, 25):
            weights = chances(better + drop, better)
            for delta in largest:
                largest[delta] = max(largest[delta], float(weights[p_values <= delta].sum()))
    assert all(found <= delta for delta, found in largest.items())
    assert largest[0.2] > 0.05  # it is not idle


def test_the_p_value_is_the_worst_case_and_little_more() -> None:
    """Against the maximum of the chance of evidence as strong over a fine grid of b; the interval adds 0.0005."""

    def evidence(d: int, g: int, limit: float) -> float:
        spread = d + g + N * abs(limit)
        return 0.0 if spread == 0 else (d - g - N * limit) / spread**0.5

    for (d, g), limit in itertools.product([(0, 0), (1, 0), (0, 2), (2, 3), (5, 1)], [0.05, 0.2, 0.5]):
        as_strong = np.array([evidence(*pair, limit) <= evidence(d, g, limit) + 1e-9 for pair in PAIRS])
        worst = max(chances(b + limit, b)[as_strong].sum() for b in np.linspace(0, (1 - limit) / 2, 200))
        found = paired_p_value(d, g, N, limit)
        assert found <= worst * 1.05 + 6e-4
        inside = [b for b in np.linspace(0, (1 - limit) / 2, 200) if b <= binomial_upper_bound(g, N, 2.5e-4)]
        assert found >= max(chances(b + limit, b)[as_strong].sum() for b in inside if b >= g / N / 4 or g == 0)


def test_the_bound_is_where_the_p_value_crosses_delta() -> None:
    """The p-value falls with the limit, from a gain of all to a drop, so that there is one crossing."""
    for d, g, n in ((0, 0, 100), (3, 1, 100), (20, 18, 872), (5, 40, 872), (5, 0, 250)):
        limits = np.concatenate([np.linspace(-1, (d - g) / n, 30), np.linspace((d - g) / n, 0.4, 30)])
        found = [paired_p_value(d, g, n, limit) for limit in limits]
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(found))
        bound = paired_upper_bound(d, g, n)
        assert paired_p_value(d, g, n, bound) <= 0.05
        assert paired_p_value(d, g, n, bound - 1e-4) > 0.05


def test_the_bound_is_close_to_what_is_possible() -> None:
    """No gain seen: hardly above the exact bound of a rate. Many changes: near the normal, far below betting's."""
    assert paired_upper_bound(0, 0, 1000) == pytest.approx(binomial_upper_bound(0, 1000), rel=0.15)
    n, d, g = 5000, 250, 240
    normal = (d - g) / n + 1.645 * ((d + g) / n**2) ** 0.5
    bound = paired_upper_bound(d, g, n)
    assert normal < bound < normal + 0.1 * (normal - (d - g) / n)
    values = np.repeat([1.0, -1.0, 0.0], [d, g, n - d - g])
    assert bound - (d - g) / n < 0.75 * (betting_upper_bound(values, low=-1) - (d - g) / n)
    assert paired_upper_bound(10, 0, 10) == 1.0


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: paired_p_value(3, 3, 5, 0.1), DataError, "3 examples worse and 3 better of 5\nhint"),
        (lambda: paired_p_value(-1, 0, 5, 0.1), DataError, "whole numbers"),
        (lambda: paired_p_value(0, 0, 5, 1.1), RecipeError, "the limit of a drop is 1.1"),
        (lambda: paired_upper_bound(0, 0, 5, 1.0), RecipeError, "`delta` is 1.0"),
    ],
)
def test_what_cannot_be_bounded_is_said(call: Callable[[], float], kind: type[Exception], message: str) -> None:
    """What was given, the limit, the way out."""
    with pytest.raises(kind, match=message):
        call()
