"""Risks: values by hand, the bound that belongs to each, what is refused."""

from collections.abc import Callable

import numpy as np
import pytest

from foldflat.certify import (
    Risk,
    accuracy_drop,
    betting_p_value,
    betting_upper_bound,
    binomial_p_value,
    binomial_upper_bound,
    cosine_error,
    disagreement,
    loss_increase,
    neighbours_lost,
    paired_p_value,
    paired_upper_bound,
    score_drop,
)
from foldflat.errors import DataError, RecipeError

ONE = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 9.0]])
OTHER = np.array([[1.0, 2.0], [0.0, 5.0], [0.0, 1.0], [0.0, 9.0]])


def test_values_by_hand() -> None:
    """Answers 0 1 0 1 and 1 1 1 1, labels 0 1 1 0: one worse, one better, two disagree."""
    assert disagreement(ONE, OTHER).values.tolist() == [1, 0, 1, 0]
    assert accuracy_drop(ONE, OTHER, [0, 1, 1, 0]).values.tolist() == [1, 0, -1, 0]
    assert score_drop([0.5, 1.0], [0.25, 1.0]).values.tolist() == [0.25, 0]
    assert loss_increase([1.0, 0.5, 9.0], [3.0, 0.25, np.inf], high=2.0).values.tolist() == [1.0, -0.25, 0.0]
    assert cosine_error([[1, 0], [1, 1], [2, 0]], [[2, 0], [1, -1], [-1, 0]]).values.tolist() == pytest.approx(
        [0, 1, 2]
    )
    assert neighbours_lost([[1, 2, 3, 4], [5, 6, 7, 8]], [[4, 3, 2, 9], [8, 7, 6, 5]]).values.tolist() == [0.25, 0]


def test_each_kind_has_its_bound() -> None:
    """Rates the exact binomial one, paired drops the exact paired one, everything else bets within its range."""
    rate, drop = disagreement(ONE, OTHER), accuracy_drop(ONE, OTHER, [0, 1, 1, 0])
    assert rate.upper_bound(0.1) == binomial_upper_bound(2, 4, 0.1)
    assert rate.p_value(0.7) == binomial_p_value(2, 4, 0.7)
    assert drop.upper_bound(0.1) == paired_upper_bound(1, 1, 4, 0.1)
    assert drop.p_value(0.7, 0.1) == paired_p_value(1, 1, 4, 0.7, delta=0.1)
    lost = score_drop([0.5, 1.0], [0.25, 1.0], high=2.0)
    assert (lost.low, lost.high) == (-2.0, 2.0)
    assert lost.upper_bound(0.3) == betting_upper_bound([0.25, 0], low=-2, high=2, delta=0.3)
    assert lost.p_value(1.0, 0.3) == betting_p_value([0.25, 0], 1.0, low=-2, high=2, delta=0.3)
    assert (lost.n, lost.mean) == (2, 0.125)
    assert {risk.kind for risk in (rate, drop, lost)} == {"binomial", "paired", "betting"}


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: disagreement(ONE, OTHER[:3]),
            DataError,
            r"gives \(4, 2\), the compressed model \(3, 2\)\nhint: the same",
        ),
        (lambda: disagreement(ONE[:, :1], OTHER[:, :1]), DataError, "logits of one class"),
        (lambda: disagreement(ONE, OTHER * np.nan), DataError, "4 of 4 rows of the compressed model are NaN"),
        (
            lambda: accuracy_drop(ONE, OTHER, [0, 1, 2, 0]),
            DataError,
            "label of row 2 is 2, the models know classes 0 to 1",
        ),
        (lambda: accuracy_drop(ONE, OTHER, [0, 1]), DataError, r"labels of shape \(2,\) for 4"),
        (lambda: score_drop([1.5], [0.5]), DataError, "value of row 0 is 1.5, outside 0 to 1"),
        (lambda: score_drop([1.5], [0.5], low=1.0), RecipeError, "the range is 1.0 to 1.0"),
        (lambda: loss_increase([-1.0], [0.0], high=1.0), DataError, "outside 0 to 1"),
        (lambda: cosine_error([[0.0, 0.0]], [[1.0, 0.0]]), DataError, "vector of row 0 is zero"),
        (lambda: neighbours_lost([[1, 1]], [[1, 2]]), DataError, "the same neighbour twice"),
        (lambda: disagreement([], []), DataError, r"shape \(0,\)"),
    ],
)
def test_what_is_no_risk_is_refused(call: Callable[[], Risk], kind: type[Exception], message: str) -> None:
    """What was given, and the way out."""
    with pytest.raises(kind, match=message):
        call()
