"""Choosing between bases in bfloat16 and between their ranks in full precision."""

import pytest
import torch
from tests.tiny import planted_table

from foldflat.cluster import candidates
from foldflat.cluster.assignment import NARROW_MARGIN
from foldflat.cluster.candidates import assign_nested, candidate_residuals
from foldflat.cluster.distributed import Alone
from foldflat.cluster.groups import Group, ranks_of
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.subspace import eigenbases
from foldflat.cluster.sweep import choices


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


def test_rows_of_a_basis_of_one_rank_may_go_anywhere(
    rows: WeightedRows, groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get all distances, as a budget may ask for a lower rank than their own basis has; others still do not."""
    groups[2].ranks = [5]
    ranks = ranks_of(groups, torch.device("cpu"))
    monkeypatch.setattr(candidates, "narrow_products_pay", lambda *_: True)
    residuals = candidate_residuals(rows, groups, 0.02)
    found = torch.isfinite(residuals).sum(1)
    cheapest = (residuals + 0.02 * rows.counts[:, None] * ranks).argmin(1)
    assert set(found[cheapest == 5].tolist()) == {6}
    assert set(found[cheapest < 5].tolist()) == {2, 3, 6}


def test_choices_count_the_labels_they_return(rows: WeightedRows, groups: list[Group]) -> None:
    """Whatever the chunks, the labels at each multiplier are those of all rows at once and take what was counted."""
    ranks, multipliers = ranks_of(groups), [0.01, 0.02, 0.03, 0.2]
    residuals = candidate_residuals(rows, groups, 0.02)
    found = choices(residuals.split(70), groups, multipliers, Alone())
    assert 0 < len(found.moving) < len(rows)
    for i, multiplier in enumerate(multipliers):
        labels = found.labels_at(i).long()
        assert torch.equal(labels, (residuals + multiplier * ranks).argmin(1))
        assert found.numbers[i] == float(ranks[labels].sum())
    assert found.numbers == sorted(found.numbers, reverse=True)
    assert choices([], groups, [0.1], Alone()).numbers == [0]
