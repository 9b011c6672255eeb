"""Rows drawn by what they may cost: unbiased sums, the promised error, and the same rows however a table is held."""

import math
import threading

import numpy as np
import pytest
import torch
from tests.cluster.test_streaming import ThreadTeam
from torch import Tensor

from foldflat.cluster.distributed import Alone
from foldflat.cluster.draws import Drawn, draw_by_shares, draw_uniformly
from foldflat.cluster.importance import (
    inclusion_probabilities,
    relative_error,
    rough_bases,
    row_shares,
    sample_size,
    total_sensitivity,
)
from foldflat.cluster.rows import distinct_rows, every_row
from foldflat.cluster.subspace import squared_distances
from foldflat.cluster.sweep import Block
from foldflat.cluster.trials import SearchSettings
from foldflat.errors import DataError, RecipeError

N, D = 3000, 6


@pytest.fixture(scope="module")
def table() -> Tensor:
    """Return rows whose lengths differ by a factor of hundreds."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randn(N, 1, generator=generator).mul(1.5).exp()
    return lengths * torch.randn(N, D, generator=generator) * torch.linspace(2, 0.3, D)


@pytest.fixture(scope="module")
def weights() -> Tensor:
    """Return weights of which some are nought."""
    return 1 / torch.arange(1, N + 1, dtype=torch.float64) * (torch.arange(N) % 7 != 0)


def shares_of(table: Tensor, weights: Tensor | None) -> Tensor:
    """Return the shares by the plane of the first two features."""
    return row_shares(Block(table, weights, Alone()), [torch.eye(D)[:2]])


def cost(drawn: Drawn, basis: Tensor) -> float:
    """Return the sampled cost of one subspace."""
    rows = every_row(drawn.rows, drawn.weights)
    labels = torch.zeros(len(rows), dtype=torch.int64)
    return float((rows.weights * squared_distances(rows, labels, [basis])).sum())


def test_shares_of_three_rows_by_hand() -> None:
    """Residuals 0, 4, 0 and energies 9, 5, 0 of weights 1, 1, 2; a fourth row has no weight and no share."""
    table = torch.tensor([[3.0, 0.0], [1.0, 2.0], [0.0, 0.0], [5.0, 5.0]])
    block = Block(table, torch.tensor([1.0, 1.0, 2.0, 0.0], dtype=torch.float64), Alone())
    shares = row_shares(block, [torch.tensor([[1.0, 0.0]])])
    expected = [(0 + 9 / 14 + 1 / 3) / 3, (1 + 5 / 14 + 1 / 3) / 3, (0 + 0 + 1 / 3) / 3, 0]
    torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float64))
    exact = row_shares(block, [torch.eye(2)])
    torch.testing.assert_close(exact, torch.tensor([41 / 84, 29 / 84, 1 / 6, 0], dtype=torch.float64))


def test_inclusion_probabilities_by_hand() -> None:
    """Two of three rows by shares 0.8, 0.15, 0.05: the first is certain, the others share what is left."""
    probabilities = torch.tensor([0.8, 0.15, 0.05], dtype=torch.float64)
    found = inclusion_probabilities(probabilities, 2, Alone())
    torch.testing.assert_close(found, torch.tensor([1, 0.75, 0.25], dtype=torch.float64))
    sparse = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    assert inclusion_probabilities(sparse, 3, Alone()).tolist() == [1, 0, 1]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_sampled_sums_are_unbiased(table: Tensor, weights: Tensor, weighted: bool) -> None:
    """Over 400 draws, the means of cost, count and number of rows are those of the table within four deviations."""
    given = weights if weighted else None
    block, shares = Block(table, given, Alone()), shares_of(table, given)
    taking_part = N if given is None else int((given > 0).sum())
    basis, whole = torch.eye(D)[1:4], torch.ones(N, dtype=torch.float64) if given is None else given
    truth = cost(Drawn(table, whole, whole), basis), taking_part, 200
    found = []
    for seed in range(400):
        drawn = draw_by_shares(block, shares, 200, seed)
        found.append((cost(drawn, basis), float(drawn.counts.sum()), len(drawn.rows)))
    means, deviations = np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(len(found))
    assert (np.abs(means - truth) < 4 * deviations).all()


def errors_and_bound(table: Tensor, shares: Tensor) -> tuple[Tensor, float]:
    """Return how far 400 draws of 300 rows are off, and what one in ten may exceed."""
    energies, ones, basis = table.double().square().sum(1), torch.ones(len(table)).double(), torch.eye(D)[1:4]
    truth, block = cost(Drawn(table, ones, ones), basis), Block(table, None, Alone())
    costs = [cost(draw_by_shares(block, shares, 300, seed), basis) for seed in range(400)]
    bound = relative_error(total_sensitivity(energies, shares, truth / float(energies.sum())), 300, 0.1)
    return (torch.tensor(costs) / truth - 1).abs(), bound


def test_the_error_is_within_its_bound_as_often_as_promised(table: Tensor) -> None:
    """At most one draw in ten is off by more than the bound for 0.1, whatever the shares."""
    energies = table.double().square().sum(1)
    for shares in (shares_of(table, None), energies / energies.sum(), torch.full((N,), 1 / N, dtype=torch.float64)):
        errors, bound = errors_and_bound(table, shares)
        assert int((errors > bound).sum()) <= 40


def test_half_of_the_bound_would_not_do() -> None:
    """Where a tenth of the rows costs all it has and the others nothing, the bound holds, and half of it does not."""
    axes = torch.eye(D)[torch.where(torch.arange(N) % 10 == 0, 0, 1)]
    rows = torch.linspace(0.5, 1.5, N)[torch.randperm(N, generator=torch.Generator().manual_seed(1)), None] * axes
    energies = rows.double().square().sum(1)
    errors, bound = errors_and_bound(rows, energies / energies.sum())
    assert int((errors > bound).sum()) <= 40 < int((errors > bound / 2).sum())


def test_a_bound_by_hand_and_its_inverse() -> None:
    """S = 2, epsilon = 0.3, delta = 2 / e: 2 x 2 x 1.1 / 0.09 rows; each size gives back its error."""
    assert sample_size(2, 0.3, 2 / math.e) == math.ceil(4.4 / 0.09)
    assert sample_size(2, 0.3, 2 / math.e / 5, candidates=5) == sample_size(2, 0.3, 2 / math.e / 25)
    for size in (1, 50, 10**6):
        error = relative_error(7.5, size, 0.05, candidates=3)
        assert sample_size(7.5, error * (1 + 1e-9), 0.05, candidates=3) == size


def test_a_sensitivity_by_hand_and_its_promise(table: Tensor) -> None:
    """Energies 1, 3 drawn evenly: 3 / (4 / 2) over the share lost; shares of ours give at most 3 over it."""
    half = torch.tensor([0.5, 0.5])
    assert total_sensitivity(torch.tensor([1.0, 3.0]), half, 0.25) == pytest.approx(6)
    assert total_sensitivity(torch.zeros(2), half, 0.5) == 2
    energies = table.double().square().sum(1)
    assert 1 / 0.2 <= total_sensitivity(energies, shares_of(table, None), 0.2) <= 3 / 0.2 * (1 + 1e-6)


def test_ranks_draw_what_one_process_draws(table: Tensor, weights: Tensor) -> None:
    """Three unequal blocks, one of them empty, draw the rows of the whole table, in its order."""
    alone = draw_by_shares(Block(table, weights, Alone()), shares_of(table, weights), 300, 5)
    starts, found = [0, 700, 700], {}
    barrier, board = threading.Barrier(3, timeout=60), [None] * 3

    def work(rank: int) -> None:
        part = slice(starts[rank], [*starts, N][rank + 1])
        block = Block(table[part], weights[part], ThreadTeam(rank, barrier, board), starts[rank])
        shares = row_shares(block, [torch.eye(D)[:2]])
        found[rank] = draw_by_shares(block, shares, 300, 5), draw_uniformly(block, N, 100, 5)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    uniform = draw_uniformly(Block(table, weights, Alone()), N, 100, 5)
    for drawn, evenly in found.values():
        assert torch.equal(drawn.rows, alone.rows)
        torch.testing.assert_close(drawn.weights, alone.weights)
        assert torch.equal(evenly.rows, uniform.rows)


def test_equal_rows_add_up_what_they_stand_for() -> None:
    """A row drawn twice stands for the sum of both; one of weight nought for none."""
    drawn = Drawn(torch.ones(3, 2), torch.tensor([2.0, 3.0, 0.0]).double(), torch.tensor([4.0, 5.0, 6.0]).double())
    rows = drawn.distinct(torch.device("cpu"))
    assert (rows.counts.tolist(), rows.scale) == ([9], 5)


def test_a_rough_solution_has_few_subspaces_and_no_more_rank_than_rows_allow(table: Tensor) -> None:
    """Four bases at most, of the rank that the budget allows, never more than half the rows of each."""
    few = distinct_rows(table[:16])
    assert [len(basis) for basis in rough_bases(few, N, SearchSettings(6 * N))] == [2] * 4
    assert [len(basis) for basis in rough_bases(few, N, SearchSettings(1.9 * N, n_subspaces=1))] == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2.0, 0.0, 0.1), r"`epsilon` is 0.0; hint: give a relative error above 0"),
        ((0.5, 0.1, 0.1), r"`sensitivity` is 0.5, outside \[1, infinity\)"),
        ((math.inf, 0.1, 0.1), r"`sensitivity` is inf, outside"),
        ((2.0, 0.1, 1.0), r"`delta` is 1.0, outside \(0, 1\)"),
        ((2.0, 0.1, 0.1, 0), r"`candidates` is 0; hint: one set"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: tuple[float, float, float], message: str) -> None:
    """Each names what was given and its range."""
    with pytest.raises(RecipeError, match=message):
        sample_size(*arguments)


def test_what_has_no_bound_is_refused(table: Tensor) -> None:
    """No rows, nothing lost, no probability where energy is, no weight at all, an unknown way to draw."""
    with pytest.raises(RecipeError, match=r"`size` is 0; hint: draw at least one row"):
        relative_error(2, 0, 0.1)
    with pytest.raises(RecipeError, match=r"`share_lost` is 0, outside \(0, 1\]"):
        total_sensitivity(torch.ones(2), torch.ones(2) / 2, 0)
    with pytest.raises(DataError, match=r"energy has probability 0; hint: mix in"):
        total_sensitivity(torch.ones(2), torch.tensor([1.0, 0.0]), 0.1)
    with pytest.raises(DataError, match=r"row weights are all zero"):
        row_shares(Block(table, torch.zeros(N), Alone()), [torch.eye(D)[:2]])
    with pytest.raises(RecipeError, match=r"`sampling` is 'norms', which is unknown; hint: choose one of importance"):
        SearchSettings(100, sampling="norms")
