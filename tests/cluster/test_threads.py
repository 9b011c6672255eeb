from collections.abc import Iterator

import pytest
import torch
from tests.tiny import planted_table

from foldflat.cluster.fit import fit_table
from foldflat.cluster.threads import side_by_side


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Let torch use three threads for one test."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_calls_keep_their_order_and_the_threads() -> None:
    """Each call has one thread of torch's, results come in the order of the items, and afterwards all is as before."""
    found = side_by_side(lambda item: (item, torch.get_num_threads()), range(7))
    assert found == [(item, 1) for item in range(7)]
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda item: 1 // item, range(3))
    assert torch.get_num_threads() == 3
    assert side_by_side(lambda _: torch.get_num_threads(), range(2), worthwhile=False) == [3, 3]


@pytest.mark.usefixtures("three_threads")
def test_starts_side_by_side_are_the_starts_in_turn() -> None:
    """The same costs in the same order, and the cheapest delivered, whatever the number of threads."""
    table, _ = planted_table(600, 16, 4, 3)
    beside = fit_table(table, n_subspaces=4, rank=3, init="random", n_init=5)
    torch.set_num_threads(1)
    turns = fit_table(table, n_subspaces=4, rank=3, init="random", n_init=5)
    assert beside.start_costs == pytest.approx(turns.start_costs, rel=1e-5)
    assert len(set(beside.start_costs)) > 1
    assert beside.cost == min(beside.start_costs)
