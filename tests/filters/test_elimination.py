"""Check greedy removal with refits against least squares on the data themselves."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from foldflat.filters import elimination
from foldflat.filters.covariances import Moments
from foldflat.filters.elimination import eliminate, refitted


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the ridge away, which least squares do not have."""
    monkeypatch.setattr(elimination, "_RIDGE", 1e-9)


def drawn(channels: int, window: int, outputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return correlated rows (rows, columns), weights (outputs, columns) and importances (outputs,)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels * window, channels * window, dtype=torch.float64, generator=generator)
    rows = torch.randn(200, channels * window, dtype=torch.float64, generator=generator) @ mixing + 1
    weights = torch.randn(outputs, channels * window, dtype=torch.float64, generator=generator)
    return rows, weights, torch.rand(outputs, dtype=torch.float64, generator=generator)


def moments_of(rows: Tensor, weights: Tensor, importance: Tensor, columns: Tensor) -> Moments:
    """Return the moments of one layer without groups."""
    centred = rows - rows.mean(0)
    covariance = centred.mT @ centred / len(rows)
    return Moments(weights[None], columns[None], covariance[None], rows.mean(0)[None], importance[None])


def fit(rows: Tensor, weights: Tensor, stays: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights of the columns that stay and a shift, by least squares on the rows."""
    design = torch.cat([rows[:, stays], torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
    solved = torch.linalg.lstsq(design, rows @ weights.mT).solution
    return solved[:-1].mT, solved[-1]


def slow_error(readers: list[tuple[Tensor, Tensor, Tensor, Tensor]], left: set[int]) -> float:
    """Return the weighted mean squared residual of all readers with only some channels left."""
    error = 0.0
    for rows, weights, importance, columns in readers:
        stays = torch.isin(columns, torch.tensor(sorted(left), dtype=torch.int64))
        kept, shift = fit(rows, weights, stays)
        residual = rows @ weights.mT - rows[:, stays] @ kept.mT - shift
        error += float((residual.square().mean(0) * importance).sum())
    return error


@pytest.mark.parametrize(("window", "seed"), list(itertools.product([1, 3], [0, 1, 2])))
def test_order_and_errors_agree_with_least_squares_for_every_candidate(window: int, seed: int) -> None:
    """Two readers with windows of different sizes; each step tries every channel that is left, on the data."""
    c = 5
    readers = []
    for number, own in enumerate((window, 1)):
        columns = torch.arange(c).repeat_interleave(own)
        readers.append((*drawn(c, own, 4, seed=10 * seed + number), columns))
    left, order, errors = set(range(c)), [], [0.0]
    while left:
        trials = {gone: slow_error(readers, left - {gone}) for gone in left}
        gone = min(trials, key=lambda channel: trials[channel])
        order.append(gone)
        errors.append(trials[gone])
        left.remove(gone)
    found = eliminate(torch.arange(c), [moments_of(*reader) for reader in readers])
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.errors, errors[::-1], rtol=1e-5, atol=1e-6)


def test_the_refit_is_that_of_least_squares() -> None:
    """Weights and shift; columns of removed channels are zero."""
    rows, weights, importance = drawn(4, 2, 3)
    columns = torch.arange(4).repeat_interleave(2)
    kept = torch.tensor([True, False, True, True])
    found, shift = refitted(moments_of(rows, weights, importance, columns), kept)
    expected, constant = fit(rows, weights, kept[columns])
    torch.testing.assert_close(found[0][:, kept[columns]], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shift[0], constant, rtol=1e-5, atol=1e-5)
    assert not found[0][:, ~kept[columns]].any()


def test_a_duplicate_goes_first_at_no_cost_and_its_twin_takes_its_weight() -> None:
    """Channel 2 repeats channel 0."""
    rows, weights, importance = drawn(4, 1, 3)
    rows[:, 2] = rows[:, 0]
    moments = moments_of(rows, weights, importance, torch.arange(4))
    found = eliminate(torch.arange(4), [moments])
    assert int(found.order[0]) in (0, 2)
    assert found.errors[3] < 1e-6 * found.errors[0]
    fitted, shift = refitted(moments, torch.tensor([True, True, False, True]))
    expected = weights.clone()
    expected[:, 0] += expected[:, 2]
    expected[:, 2] = 0
    torch.testing.assert_close(fitted[0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shift[0], torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-4)


def test_scores_are_the_steps_of_the_error_and_never_fall() -> None:
    """In the order of removal, also where a later step is smaller than the one before, and all are finite."""
    found = elimination.Elimination(torch.tensor([2, 0, 1]), np.array([9.0, 3.0, 2.0, 0.0]))
    assert found.scores.tolist() == [2.0, 6.0, 2.0]


def test_dead_channels_cost_nothing_and_singular_covariances_are_solved() -> None:
    """A reader whose inputs are all zero says nothing, and what is left of a layer stays finite."""
    rows, weights, importance = drawn(4, 1, 3)
    rows[:, 1] = 0
    columns = torch.arange(4)
    dead = moments_of(torch.zeros_like(rows), weights, torch.zeros_like(importance), columns)
    found = eliminate(columns, [moments_of(rows, weights, importance, columns), dead])
    assert int(found.order[0]) == 1
    assert found.errors[3] < 1e-8 * found.errors[0]
    fitted, shift = refitted(dead, torch.tensor([True, False, True, True]))
    assert bool(torch.isfinite(fitted).all())
    assert not shift.any()


def test_readers_of_other_channels_have_no_say() -> None:
    """A layer that reads a group's channels with those of others keeps the others' weights free to make good."""
    rows, weights, importance = drawn(5, 1, 3)
    reader = (rows, weights, importance, torch.arange(5))
    found = eliminate(torch.tensor([1, 3]), [moments_of(*reader)])
    first = min((1, 3), key=lambda gone: slow_error([reader], set(range(5)) - {gone}))
    assert int(found.order[0]) == (1, 3).index(first)
    np.testing.assert_allclose(found.errors[0], slow_error([reader], {0, 2, 4}), rtol=1e-5)
