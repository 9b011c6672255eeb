"""Check slopes of error curves by hand, and the amounts they lead to against every possible choice."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foldflat.budget import convex_slopes, counts_at

CURVES = arrays(np.float64, st.integers(2, 7), elements=st.integers(0, 6).map(float))


def test_golden_slopes() -> None:
    """The unit that alone saves little gets the slope of the edge that it lies on."""
    np.testing.assert_array_equal(convex_slopes(np.array([10.0, 6.0, 5.0, 1.0, 0.5])), [4.0, 2.5, 2.5, 0.5])
    np.testing.assert_array_equal(convex_slopes(np.array([3.0, 3.0, 0.0])), [1.5, 1.5])


def test_numbers_that_are_not_allowed_are_never_gone_below() -> None:
    """Their units have an infinite slope, whatever the multiplier."""
    slopes = convex_slopes(np.array([np.inf, np.inf, 4.0, 1.0]))
    np.testing.assert_array_equal(slopes, [np.inf, np.inf, 3.0])
    assert counts_at([slopes], [1.0], 1e300) == [2]


@given(CURVES)
def test_slopes_never_increase_and_lie_below_the_curve(errors: np.ndarray) -> None:
    """They are those of the lower convex hull of the curve, made never increasing."""
    slopes = convex_slopes(errors)
    assert (np.diff(slopes) <= 0).all()
    assert (slopes >= 0).all()
    falling = np.minimum.accumulate(errors)
    assert (falling[0] - slopes.cumsum() <= falling[1:] + 1e-9).all()


@given(CURVES, CURVES, st.integers(1, 3), st.integers(1, 100))
def test_counts_minimise_error_plus_price(first: np.ndarray, second: np.ndarray, price: int, tenths: int) -> None:
    """No other choice has a smaller Lagrangian, by trying all of them."""
    multiplier = tenths / 10
    curves, prices = [first, second], [float(price), 1.0]

    def cost(counts: tuple[int, ...]) -> float:
        each = zip(curves, prices, counts, strict=True)
        return sum(float(curve[count]) + multiplier * one * count for curve, one, count in each)

    every = itertools.product(range(len(first)), range(len(second)))
    found = counts_at([convex_slopes(curve) for curve in curves], prices, multiplier)
    assert cost(tuple(found)) <= min(map(cost, every)) + 1e-9
