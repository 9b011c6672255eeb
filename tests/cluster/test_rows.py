import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foldflat.cluster import rows as rows_module
from foldflat.cluster.rows import distinct_rows


@st.composite
def weighted_tables(draw: st.DrawFn) -> tuple[Tensor, Tensor | None]:
    """Draw small tables of few numbers, so that equal rows and rows of zeros are common, and their weights."""
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    numbers = st.sampled_from([-1.0, -0.0, 0.0, 0.5])
    values = draw(st.lists(st.lists(numbers, min_size=d, max_size=d), min_size=n, max_size=n))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    weights = draw(st.none() | st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any))
    return torch.tensor(values, dtype=dtype), None if weights is None else torch.tensor(weights)


@given(weighted_tables())
def test_equal_rows_are_merged_with_their_weights(case: tuple[Tensor, Tensor | None]) -> None:
    """Every distinct row of positive weight appears once, with the sum of weights and the number of its rows."""
    table, weights = case
    given_weights = [1] * len(table) if weights is None else weights.tolist()
    expected: dict[tuple[float, ...], list[float]] = {}
    for row, weight in zip(table.tolist(), given_weights, strict=True):
        if weight > 0:
            entry = expected.setdefault(tuple(row), [0.0, 0.0])
            entry[0] += weight
            entry[1] += 1
    rows = distinct_rows(table, weights)
    totals = (rows.weights * rows.scale).tolist()
    found = zip(table[rows.index].tolist(), totals, rows.counts.tolist(), strict=True)
    assert {tuple(row): (pytest.approx(weight), count) for row, weight, count in found} == {
        row: tuple(entry) for row, entry in expected.items()
    }
    assert len(rows) == len(expected)


@given(weighted_tables())
def test_every_row_finds_its_distinct_row(case: tuple[Tensor, Tensor | None]) -> None:
    """`inverse` leads from each row to an equal one; rows of weight zero lead nowhere."""
    table, weights = case
    rows = distinct_rows(table, weights)
    absent = torch.zeros(len(table), dtype=torch.bool) if weights is None else weights == 0
    assert torch.equal(rows.inverse < 0, absent)
    assert torch.equal(table[rows.index][rows.inverse[~absent]], table[~absent])


@given(weighted_tables(), st.randoms(use_true_random=False))
def test_order_of_the_rows_does_not_matter(case: tuple[Tensor, Tensor | None], random: object) -> None:
    """Shuffled rows give the same distinct rows in the same order, bit for bit."""
    table, weights = case
    order = list(range(len(table)))
    random.shuffle(order)  # type: ignore[attr-defined]
    first = distinct_rows(table, weights)
    second = distinct_rows(table[order], None if weights is None else weights[order])
    assert torch.equal(first.block(slice(None)), second.block(slice(None)))
    assert torch.equal(first.weights, second.weights)
    assert torch.equal(first.counts, second.counts)


def test_weights_are_scaled_to_a_mean_of_one() -> None:
    """Weights given in any unit are the same weights; the unit is kept as `scale`."""
    table = torch.eye(3)
    rows = distinct_rows(table, torch.tensor([1.0, 2.0, 6.0]))
    assert rows.scale == 3
    assert sorted(rows.weights.tolist()) == pytest.approx([1 / 3, 2 / 3, 2])


def test_rows_whose_hashes_collide_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Different rows of one hash are found out and told apart by their numbers."""
    monkeypatch.setattr(rows_module, "_row_hashes", lambda table: torch.zeros(len(table), dtype=torch.int64))
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0]])
    rows = distinct_rows(table, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert sorted(map(tuple, table[rows.index].tolist())) == [(1.0, 2.0), (3.0, 4.0)]
    assert torch.equal(table[rows.index][rows.inverse[:3]], table[:3])
    assert rows.inverse[3] == -1


def test_blocks_do_not_change_hashes_or_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walking a table two rows at a time gives what one walk gives."""
    table = torch.from_numpy(np.random.default_rng(0).standard_normal((11, 5)))
    whole = distinct_rows(table)
    norms = whole.squared_norms()
    monkeypatch.setattr(rows_module, "blocks", lambda length, _: [slice(i, i + 2) for i in range(0, length, 2)])
    parts = distinct_rows(table)
    assert torch.equal(parts.index, whole.index)
    torch.testing.assert_close(parts.squared_norms(), norms)
    torch.testing.assert_close(norms, table[whole.index].square().sum(1))


def test_half_precision_is_computed_in_float32() -> None:
    """Blocks of a bfloat16 table are float32 copies; the table itself is referred to, not copied."""
    table = torch.ones(4, 2, dtype=torch.bfloat16)
    rows = distinct_rows(table)
    assert rows.table is table
    assert rows.block(slice(None)).dtype == rows.squared_norms().dtype == torch.float32


def test_subset_keeps_weights_in_the_same_unit() -> None:
    """A sample's weights are those of the whole, not scaled anew, so that multipliers carry over."""
    rows = distinct_rows(torch.eye(3), torch.tensor([1.0, 2.0, 6.0]))
    sample = rows.subset(torch.tensor([2, 0]))
    assert torch.equal(sample.weights, rows.weights[[2, 0]])
    assert torch.equal(sample.block(slice(None)), rows.block(torch.tensor([2, 0])))
    assert sample.scale == rows.scale
    assert len(sample) == 2
