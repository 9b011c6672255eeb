"""Ticks: round, within the axis, about as many as asked for."""

import itertools
import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from foldflat.report.page.ticks import linear_ticks, log_ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (84.3, 91.2, [86, 88, 90]),
        (-27.4, 1.9, [-20, -10, 0]),
        (0.0, 0.00012, [0, 5e-5, 1e-4]),
        (-0.3, 0.3, [-0.2, 0, 0.2]),
    ],
)
def test_linear_ticks_are_multiples_of_a_round_step(low: float, high: float, expected: list[float]) -> None:
    """Steps of 1, 2 or 5 times a power of ten, as one would choose by hand."""
    assert linear_ticks(low, high) == pytest.approx(expected, abs=1e-12)


@given(low=st.floats(-1e4, 1e4), width=st.floats(1e-3, 1e4))
def test_linear_ticks_lie_within_the_axis_at_even_distances(low: float, width: float) -> None:
    """Two to six of them on any axis."""
    ticks = linear_ticks(low, low + width)
    assert 2 <= len(ticks) <= 6
    assert low - 1e-6 * width <= ticks[0] < ticks[-1] <= low + width * (1 + 1e-6)
    steps = {round((b - a) / (ticks[1] - ticks[0]), 6) for a, b in itertools.pairwise(ticks)}
    assert steps == {1.0}


def test_logarithmic_ticks_thin_out_over_decades() -> None:
    """Within one decade six a decade, over three only powers of ten."""
    assert log_ticks(0.125, 1.06) == [0.15, 0.2, 0.3, 0.5, 0.7, 1.0]
    assert log_ticks(0.009, 1.1) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert log_ticks(1e-5, 1e2) == [10.0**power for power in range(-5, 3)]
    assert all(math.isfinite(math.log(tick)) for tick in log_ticks(1e-12, 1))
