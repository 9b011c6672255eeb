import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.cluster.oracle import cheapest_ranks

from foldflat.cluster.allocation import (
    allocate_at_multiplier,
    allocate_within_budget,
    largest_equal_rank,
)

Array = NDArray[np.float64]

GAINS = np.array([[12.0, 6.0, 1.0], [8.0, 2.0, 0.0]])
PRICES = np.array([4.0, 2.0])
"""Gain per parameter: 3, 1.5, 0.25 in the first cluster; 4, 1, 0 in the second."""


@st.composite
def spectra(draw: st.DrawFn, clusters: int = 4, features: int = 5) -> tuple[Array, Array, float]:
    """Draw gains (k, d) that fall within each row, prices (k,) and a budget; ties and zeros are likely."""
    k, d = draw(st.integers(1, clusters)), draw(st.integers(1, features))
    gain = st.integers(0, 6).map(float)
    gains = draw(st.lists(st.lists(gain, min_size=d, max_size=d), min_size=k, max_size=k))
    prices = draw(st.lists(st.integers(1, 5).map(float), min_size=k, max_size=k))
    most = d * sum(prices)
    return -np.sort(-np.array(gains), axis=1), np.array(prices), draw(st.floats(0, most + 1))


@pytest.mark.parametrize(
    ("budget", "ranks", "spent", "multiplier"),
    [
        (1, [0, 0], 0, 4.0),
        (2, [0, 1], 2, 3.0),
        (5, [0, 1], 2, 3.0),
        (6, [1, 1], 6, 1.5),
        (10, [2, 1], 10, 1.0),
        (12, [2, 2], 12, 0.25),
        (16, [3, 2], 16, 0.0),
        (99, [3, 2], 16, 0.0),
    ],
)
def test_budget_is_spent_on_the_largest_gain_per_parameter(
    budget: float, ranks: list[int], spent: float, multiplier: float
) -> None:
    """Six gains ranked by hand; the multiplier is the ratio of the first one left out."""
    found = allocate_within_budget(GAINS, PRICES, budget)
    assert (found.ranks.tolist(), found.parameters, found.multiplier) == (ranks, spent, multiplier)


def test_fill_adds_cheaper_directions_that_still_fit() -> None:
    """With 8 to spend, 6 go by ratio, the next direction costs 4 and waits, and one of price 2 still fits."""
    assert allocate_within_budget(GAINS, PRICES, 8).ranks.tolist() == [1, 1]
    filled = allocate_within_budget(GAINS, PRICES, 8, fill=True)
    assert filled.ranks.tolist() == [1, 2]
    assert filled.parameters == 8


def test_fill_skips_no_direction_of_a_cluster() -> None:
    """The gains of a cluster are kept from the largest on, so a direction that does not fit closes its cluster."""
    filled = allocate_within_budget(np.array([[9.0, 8.0], [1.0, 1.0]]), np.array([4.0, 1.0]), 6, fill=True)
    assert filled.ranks.tolist() == [1, 2]


def test_directions_without_gain_cost_nothing() -> None:
    """A cluster without rows saves nothing and keeps nothing, whatever the budget."""
    assert allocate_within_budget(np.zeros((2, 3)), PRICES, 1e9, fill=True).ranks.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("multiplier", "ranks"), [(0.0, [3, 2]), (0.25, [2, 2]), (1.2, [2, 1]), (3.5, [0, 1]), (4.0, [0, 0])]
)
def test_multiplier_keeps_what_saves_more_than_it_costs(multiplier: float, ranks: list[int]) -> None:
    """A direction is kept if its gain exceeds the multiplier times its price, strictly."""
    found = allocate_at_multiplier(GAINS, PRICES, multiplier)
    assert found.ranks.tolist() == ranks
    assert found.parameters == np.dot(ranks, PRICES)


@given(spectra(), st.booleans())
def test_budget_is_never_exceeded(case: tuple[Array, Array, float], fill: bool) -> None:
    """The parameters reported are those of the ranks, and at most the budget."""
    gains, prices, budget = case
    found = allocate_within_budget(gains, prices, budget, fill=fill)
    assert found.parameters == found.ranks @ prices
    assert found.parameters <= budget * (1 + 1e-9)
    assert (found.ranks <= (gains > 0).sum(1)).all()


@given(spectra(clusters=3, features=3))
def test_allocation_is_the_best_there_is_for_what_it_spends(case: tuple[Array, Array, float]) -> None:
    """No combination of ranks loses less energy with as many parameters as were spent: all are tried."""
    gains, prices, budget = case
    found = allocate_within_budget(gains, prices, budget)
    lost = sum(gains[i, rank:].sum() for i, rank in enumerate(found.ranks))
    assert lost == pytest.approx(cheapest_ranks(gains, prices, found.parameters))
    filled = allocate_within_budget(gains, prices, budget, fill=True)
    assert sum(gains[i, rank:].sum() for i, rank in enumerate(filled.ranks)) <= lost


@given(spectra(), st.integers(0, 5))
def test_free_ranks_beat_equal_ranks_at_the_same_budget(case: tuple[Array, Array, float], rank: int) -> None:
    """Energy lost + multiplier x parameters is at most that of equal ranks, for the parameters they need.

    Where all prices agree nothing of the budget is left over, so the energy lost itself is at most theirs.
    """
    gains, prices, _ = case
    rank = min(rank, gains.shape[1])
    for price in (prices, np.full_like(prices, 3)):
        budget = rank * price.sum()
        found = allocate_within_budget(gains, price, budget)
        free = sum(gains[i, kept:].sum() for i, kept in enumerate(found.ranks))
        equal = gains[:, rank:].sum()
        unspent = found.multiplier * (budget - found.parameters)
        assert free <= equal + unspent + 1e-9
    assert free <= equal + 1e-9


@pytest.mark.parametrize(
    ("n", "dropped", "ranks"),
    [
        (30522, 0.40, [449, 438, 428, 418, 409, 368]),
        (30522, 0.60, [299, 292, 285, 279, 272, 245]),
        (50265, 0.43, [431, 424, 418, 412, 406, 379]),
    ],
    ids=["DistilBERT 40 %", "DistilBERT 60 %", "RoBERTa 43 %"],
)
def test_equal_ranks_are_those_of_the_paper(n: int, dropped: float, ranks: list[int]) -> None:
    """The ranks of Maalouf et al. for 768 features and k = 1, 2, 3, 4, 5, 10 follow from the parameter count."""
    found = [largest_equal_rank(n, 768, k, (1 - dropped) * n * 768) for k in (1, 2, 3, 4, 5, 10)]
    assert found == ranks


def test_equal_rank_of_the_worked_example() -> None:
    """20 rows of 10 features in 120 parameters: rank 4 in one subspace, rank 3 in two, 120 spent by both."""
    assert largest_equal_rank(20, 10, 1, 0.6 * 200) == 4
    assert largest_equal_rank(20, 10, 2, 0.6 * 200) == 3


@given(st.integers(1, 500), st.integers(1, 50), st.integers(1, 9), st.floats(0, 1.5))
def test_equal_rank_is_the_largest_that_fits(n: int, d: int, k: int, ratio: float) -> None:
    """The rank fits, the next does not or exceeds d; zero means that not even rank 1 fits."""
    budget = ratio * n * d
    rank = largest_equal_rank(n, d, k, budget)
    assert 0 <= rank <= d
    assert rank * (n + k * d) <= budget * (1 + 1e-6) + 1e-6
    assert rank == d or (rank + 1) * (n + k * d) > budget
