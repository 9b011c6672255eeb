"""Choosing between bases in bfloat16 and between their ranks in full precision."""

import pytest
import torch
from tests.tiny import planted_table

from foldflat.cluster import candidates
from foldflat.cluster.assignment import NARROW_MARGIN
from foldflat.cluster.candidates import assign_nested, candidate_residuals
from foldflat.cluster.groups import Group, ranks_of
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.subspace import eigenbases


@pytest.fixture
def rows() -> WeightedRows:
    """Return weighted rows of very different lengths near three subspaces, some of them twice."""
    table, _ = planted_table(500, 24, 3, 6, noise=0.1)
    table *= torch.logspace(-1, 1, 500)[:, None]
    return distinct_rows(torch.cat([table, table[:100]]), torch.linspace(0.5, 2, 600, dtype=torch.float64))


@pytest.fixture
def groups(rows: WeightedRows) -> list[Group]:
    """Return three bases of other thirds of the rows, so that many rows are torn between them."""
    labels = torch.arange(len(rows)) % 3
    _, vectors = eigenbases(rows, labels, 3)
    return [Group(basis[:9], ranks) for basis, ranks in zip(vectors, ([1, 4, 9], [2, 9], [3, 5]), strict=True)]


def test_every_choice_of_bfloat16_is_nearly_the_best(
    rows: WeightedRows, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distances that are there are exact; a row that goes elsewhere pays less than the margin for it."""
    exact = candidate_residuals(rows, groups, 0.02)
    monkeypatch.setattr(candidates, "narrow_products_pay", lambda *_: True)
    narrow = candidate_residuals(rows, groups, 0.02)
    assert torch.isfinite(exact).all()
    there = torch.isfinite(narrow)
    torch.testing.assert_close(narrow[there], exact[there], rtol=1e-4, atol=1e-5)
    # one basis for most rows, all of them for those that are torn
    assert set(there.sum(1).tolist()) == {2, 3, 7}
    prices = exact + 0.02 * rows.counts[:, None] * ranks_of(groups, exact.device)
    paid = prices.gather(1, assign_nested(rows, groups, 0.02)[:, None])[:, 0]
    excess = (paid - prices.amin(1)) / (rows.weights * rows.squared_norms())
    assert float(excess.max()) < NARROW_MARGIN
    assert float((excess > 1e-6).double().mean()) < 0.02


def test_a_multiplier_moves_rows_to_lower_ranks(rows: WeightedRows, groups: list[Group]) -> None:
    """Without one every row takes what is closest, with a large one the least rank of all."""
    ranks = ranks_of(groups, torch.device("cpu"))
    taken = [float(ranks[assign_nested(rows, groups, multiplier)].mean()) for multiplier in (0.0, 0.1, 1.0, 1e9)]
    assert taken == sorted(taken, reverse=True)
    assert taken[0] > 5
    assert taken[-1] == 1
