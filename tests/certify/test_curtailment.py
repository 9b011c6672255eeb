"""Verdicts from a part of the examples: what is clear is said, what is not is left open until all are seen."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldflat.certify import Risk, early_verdict, foreseen_p_value


def rate(failures: int, n: int) -> Risk:
    """Return a risk of 0 and 1."""
    return Risk("disagreement", np.repeat([1.0, 0.0], [failures, n - failures]), 0.0, 1.0, "binomial")


def verdict(risk: Risk, of: int, limit: float, delta: float = 0.05) -> bool | None:
    """Return the early verdict of the test on all examples."""
    return early_verdict(risk, of, limit, lambda at: foreseen_p_value(risk, of, at, delta) <= delta)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        (0, True),  # sd .0051 by the made-up example: passes .0398 as well as .0602
        (5, None),  # .05 of 100 with sd .021: .0924 is passed, .0076 is not
        (20, False),  # even at .05 + 2 x .039, .2 is too much
    ],
)
def test_what_is_clear_is_said(failures: int, expected: bool | None) -> None:
    """100 of 1,000 examples, limit .05."""
    assert verdict(rate(failures, 100), 1000, 0.05) is expected


@given(failures=st.integers(0, 60), n=st.integers(60, 400), limit=st.floats(0.01, 0.4))
def test_of_all_examples_it_is_the_test_itself(failures: int, n: int, limit: float) -> None:
    """Nothing is left open, and nothing decided otherwise."""
    risk = rate(failures, n)
    assert verdict(risk, n, limit) is (risk.p_value(limit) <= 0.05)


def drops(draw: np.random.Generator, n: int, worse: float, better: float) -> Risk:
    """Draw paired drops."""
    luck = draw.random(n)
    return Risk("accuracy drop", (luck < worse) - (luck > 1 - better).astype(np.float64), -1.0, 1.0, "paired")


@pytest.mark.parametrize(
    ("worse", "better", "passing", "most_seen"),
    [(0.02, 0.02, 0.7, 1.0), (0.03, 0.02, 0.1, 0.95), (0.045, 0.02, 0.0, 0.65), (0.08, 0.02, 0.0, 0.35)],
)
def test_looking_early_saves_failures_and_costs_few_passes(
    worse: float, better: float, passing: float, most_seen: float
) -> None:
    """Of 50 tests of a drop of .02 looked at seven times, one in 20 at most is given up that would have passed."""
    draw, n, limit = np.random.default_rng(0), 800, 0.02
    wrong = passed = seen = 0
    for _ in range(50):
        whole = drops(draw, n, worse, better)
        parts = [dataclasses.replace(whole, values=whole.values[:m]) for m in range(100, n + 1, 100)]
        passes = whole.p_value(limit) <= 0.05
        stopped = next((part for part in parts[:-1] if verdict(part, n, limit) is False), parts[-1])
        passed += passes
        wrong += passes and stopped.n < n
        seen += stopped.n
    assert passed >= passing * 50
    assert wrong <= max(1, passed / 20)
    assert seen <= most_seen * 50 * n
