"""Promises by seeded repetition: the true risk lies exactly at the limit, and bounds fail with chance delta at most.

A count of failures is accepted unless chance alone exceeds it less than once in a million times.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom
from tests.workflow.certificates.made_up import Lucky

from foldflat.certify import (
    bernstein_upper_bound,
    betting_p_value,
    example_hash,
    fixed_sequence,
    paired_p_value,
    sequences_graph,
)
from foldflat.pipeline import Result
from foldflat.workflow.certificates import Ladder, Promise, search
from foldflat.workflow.certificates.testing import Original

REPETITIONS = 2000
Draw = Callable[[np.random.Generator, int, float], NDArray[np.float64]]


def most_failures(delta: float) -> int:
    """Return how many failures in all repetitions a promise of delta may show."""
    return int(binom.isf(1e-6, REPETITIONS, delta))


def rates(draw: np.random.Generator, n: int, mean: float) -> NDArray[np.float64]:
    """Draw 0 or 1."""
    return (draw.random(n) < mean).astype(np.float64)


def skewed(draw: np.random.Generator, n: int, mean: float) -> NDArray[np.float64]:
    """Draw from a distribution with most of its mass near 0."""
    return draw.beta(0.2, 0.2 * (1 - mean) / mean, n)


class Several(Lucky):
    """Hold luck of its own for each candidate (n, candidates); a model is a candidate's number and rate."""

    def outputs(self, model: Any, *, progress: bool = False) -> NDArray[Any]:
        """Return logits (n, 2)."""
        number, rate = model
        return Lucky(self.luck[:, number], self.hashes).outputs(rate, progress=progress)


def counts(failures: NDArray[np.bool_]) -> int:
    """Return how many repetitions failed."""
    return int(failures.sum())


@pytest.mark.parametrize(
    "n", [100, pytest.param(1000, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("mean", [0.01, 0.1])
@pytest.mark.parametrize("draw_values", [rates, skewed])
def test_bets_against_a_true_hypothesis_win_with_chance_delta_at_most(draw_values: Draw, mean: float, n: int) -> None:
    """The mean is the limit itself, so every rejection is a failure."""
    draw = np.random.default_rng(n)
    p_values = np.array([betting_p_value(draw_values(draw, n, mean), mean) for _ in range(REPETITIONS)])
    for delta in (0.01, 0.05, 0.2):
        assert counts(p_values <= delta) <= most_failures(delta)


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_exact_rates_fail_with_chance_delta_at_most(n: int) -> None:
    """At the limit, over several rates and levels."""
    draw = np.random.default_rng(n)
    for mean in (0.005, 0.05, 0.3):
        p_values = binom.cdf(draw.binomial(n, mean, REPETITIONS), n, mean)
        for delta in (0.01, 0.05, 0.2):
            assert counts(p_values <= delta) <= most_failures(delta)


@pytest.mark.parametrize(
    "n", [100, pytest.param(872, marks=pytest.mark.slow), pytest.param(5000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("better", "drop"), [(0.0, 0.01), (0.02, 0.005), (0.05, 0.0)])
def test_paired_drops_fail_with_chance_delta_at_most(better: float, drop: float, n: int) -> None:
    """The true drop is the limit; p-values are computed once for each pair of counts that came."""
    draw = np.random.default_rng(n)
    seen = draw.multinomial(n, [better + drop, better, 1 - 2 * better - drop], REPETITIONS)
    pairs, times = np.unique(seen[:, :2], axis=0, return_counts=True)
    p_values = np.array([paired_p_value(int(d), int(g), n, drop) for d, g in pairs])
    for delta in (0.01, 0.05, 0.2):
        assert int(times[p_values <= delta].sum()) <= most_failures(delta)


@pytest.mark.parametrize(
    "n", [200, pytest.param(1000, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("draw_values", [rates, skewed])
def test_bernstein_fails_with_chance_delta_at_most(draw_values: Draw, n: int) -> None:
    """Of rare failures and of skewed values, at three levels."""
    draw = np.random.default_rng(n)
    for mean in (0.01, 0.1):
        values = [draw_values(draw, n, mean) for _ in range(REPETITIONS)]
        for delta in (0.01, 0.05, 0.2):
            bounds = np.array([bernstein_upper_bound(own, delta=delta) for own in values])
            assert counts(bounds < mean) <= most_failures(delta)


def test_a_broken_bound_is_found_out() -> None:
    """The test that accepts the others refuses the normal one on rare failures, and one of an eighth of the width."""
    draw = np.random.default_rng(0)
    n, mean, delta = 200, 0.01, 0.05
    values = [rates(draw, n, mean) for _ in range(REPETITIONS)]
    bounds = np.array([bernstein_upper_bound(own, delta=delta) for own in values])
    means = np.array([own.mean() for own in values])
    spread = np.array([own.std(ddof=1) for own in values])
    allowed = most_failures(delta)
    assert counts(bounds < mean) <= allowed
    assert counts(means + 1.645 * spread / np.sqrt(n) < mean) > allowed
    assert counts(means + (bounds - means) / 8 < mean) > allowed


@pytest.mark.slow
@pytest.mark.parametrize(("n", "limit", "delta"), [(100, 0.1, 0.05), (400, 0.05, 0.2), (1000, 0.02, 0.05)])
@pytest.mark.parametrize(("correlated", "misled"), [(False, False), (True, False), (False, True)])
def test_a_planned_search_promises_too_much_with_chance_delta_at_most(
    correlated: bool, misled: bool, n: int, limit: float, delta: float, tmp_path: Path
) -> None:
    """Its plan is drawn with it; of seven candidates three lie exactly at the limit; it finds what is safe.

    Or the plan is misled to begin with the smallest, so that the three are what the search falls back on.
    """
    rates_of = [share * limit for share in (0.1, 0.3, 0.6, 1, 1, 1, 1.5)]
    broken = found = 0
    for seed in range(REPETITIONS):
        draw = np.random.default_rng([seed, n])
        luck = [draw.random((size, 1 if correlated else len(rates_of))) for size in (200, n)]
        if misled:
            luck[0] = np.ones_like(luck[0])
        planning, examples = (
            Several(np.broadcast_to(own, (len(own), 7)), [example_hash(f"{kind} {i}") for i in range(len(own))])
            for kind, own in zip("ab", luck, strict=True)
        )
        made = {f"{i}": (i, rate) for i, rate in enumerate(rates_of)}
        ladder = Ladder(list(made), lambda name, made=made: Result(made[name], None, {}), {})  # type: ignore[misc, arg-type]
        promise = Promise(limit, 1 - delta, ledger=tmp_path / str(seed))
        chosen = search(Original("original", (0, 0.0), "abc"), ladder, planning, examples, promise).chosen
        (tmp_path / str(seed)).unlink()
        broken += chosen is not None and int(chosen[0]) >= 3
        found += chosen is not None
    assert broken <= most_failures(delta)
    assert misled or found > REPETITIONS / 3


@pytest.mark.parametrize("correlated", [False, True])
def test_a_search_calls_an_unsafe_model_safe_with_chance_delta_at_most(correlated: bool) -> None:
    """Ten candidates, ever smaller, four exactly at the limit; together or each with luck of its own."""
    draw, n, limit, delta = np.random.default_rng(1), 872, 0.05, 0.05
    risks = np.array([0.01, 0.02, 0.035, 0.05, 0.05, 0.05, 0.05, 0.06, 0.1, 0.3])
    names = [str(i) for i in range(len(risks))]
    orders = {"one family": sequences_graph([names]), "two families": sequences_graph([names[::2], names[1::2]])}
    failures = dict.fromkeys(orders, 0)
    found = careless = 0
    for _ in range(REPETITIONS):
        luck = draw.random((n, 1) if correlated else (n, len(risks)))
        p_values = dict(zip(names, binom.cdf((luck < risks).sum(0), n, limit), strict=True))
        for order, graph in orders.items():
            rejected = graph.rejected(p_values.__getitem__, delta)
            failures[order] += any(risks[int(name)] >= limit for name in rejected)
        careless += any(risks[int(name)] >= limit and p_values[name] <= delta for name in names)
        found += "2" in fixed_sequence(names, p_values.__getitem__, delta)
    assert max(failures.values()) <= most_failures(delta)
    assert found > REPETITIONS / 2  # it finds what is safe
    # each candidate tested at delta for itself would break the promise, where the luck of one is not that of another
    assert correlated or careless > most_failures(delta)
