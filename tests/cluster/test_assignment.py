import pytest
import torch
from tests.tiny import planted_table
from torch import Tensor

from foldflat.axes import has_fast_bfloat16
from foldflat.cluster import assignment
from foldflat.cluster.alternate import Alternation, alternate, free_ranks
from foldflat.cluster.assignment import DoubtfulRows, assign_rows, narrow_products_pay, squared_residuals
from foldflat.cluster.fit import fit_rows, fitted_cost
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.seeding import random_partition


def fitted(seed: int = 0) -> tuple[WeightedRows, Alternation]:
    """Fit four subspaces of free ranks to 150 of 600 rows, of which 200 appear twice."""
    table = planted_table(600, 16, 4, 3, noise=0.4, seed=seed)[0]
    weights = 0.5 + torch.rand(800, generator=torch.Generator().manual_seed(seed))
    rows = distinct_rows(torch.cat([table, table[:200]]), weights)
    return rows, fit_rows(rows.subset(torch.arange(150)), 4, None, 0.3 * 150 * 16, basis_price=4.0, max_iter=5)


def prices(rows: WeightedRows, bases: list[Tensor], multiplier: float) -> Tensor:
    """Return (m, k) what every row costs everywhere, subspace by subspace, from residuals in float64."""
    block = rows.block(slice(None)).double()
    columns = []
    for basis in bases:
        residual = (block - block @ basis.double().T @ basis.double()).square().sum(1)
        columns.append(rows.weights * residual + rows.counts * multiplier * len(basis))
    return torch.stack(columns, 1)


def test_rows_go_where_they_cost_least() -> None:
    """Weighted squared distance + multiplier x rank x number of equal rows, against the slow way."""
    rows, state = fitted()
    costs, labels = prices(rows, state.bases, state.multiplier).min(1)
    found = assign_rows(rows, state.bases, state.multiplier)
    assert torch.equal(found[0], labels)
    torch.testing.assert_close(found[1], costs, rtol=1e-4, atol=1e-5)
    assert state.multiplier > 0


@pytest.mark.parametrize("seed", range(5))
def test_narrow_products_move_a_row_only_where_it_hardly_matters(seed: int) -> None:
    """Products in bfloat16 give each row a subspace that costs at most 2^-8 of its energy more than its best."""
    rows, state = fitted(seed)
    labels, costs = assign_rows(rows, state.bases, state.multiplier, narrow=True)
    exact = prices(rows, state.bases, state.multiplier)
    energies = rows.weights * rows.squared_norms()
    chosen = exact.gather(1, labels[:, None]).squeeze(1)
    assert ((chosen - exact.min(1).values) <= 2**-8 * energies).all()
    assert (labels == exact.argmin(1)).double().mean() > 0.99
    assert ((costs - chosen).abs() <= 2**-7 * energies).all()
    assert float((costs - chosen).sum()) == pytest.approx(0, abs=1e-3 * float(energies.sum()))


def test_near_ties_are_decided_in_full_precision() -> None:
    """Two bases a hundredth of a degree apart are the same to bfloat16; every row still finds the nearer one."""
    generator = torch.Generator().manual_seed(0)
    rows = distinct_rows(torch.randn(400, 96, generator=generator))
    skew = torch.randn(96, 96, generator=generator).triu(1)
    first = torch.linalg.qr(torch.randn(96, 40, generator=generator)).Q.T
    second = first @ torch.linalg.matrix_exp(2e-5 * (skew - skew.T))
    exact = prices(rows, [first, second], 0)
    sure = (exact[:, 0] - exact[:, 1]).abs() > 1e-5 * rows.squared_norms()
    labels, _ = assign_rows(rows, [first, second], narrow=True)
    assert sure.double().mean() > 0.5
    assert torch.equal(labels[sure], exact.argmin(1)[sure])


def test_a_temperature_draws_from_the_gibbs_distribution() -> None:
    """Of 4,000 rows whose two prices differ by a tenth of their energy, 1 in 1 + e^(0.1 / 0.05) take the dearer."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.tensor([0.6**0.5, 0.5**0.5, 0]) + 1e-4 * torch.randn(4000, 3, generator=generator)
    rows = distinct_rows(directions * (1 + torch.rand(4000, 1, generator=generator)))
    bases = [torch.eye(3)[:1], torch.eye(3)[1:2]]
    labels, costs = assign_rows(rows, bases, temperature=0.05, generator=generator)
    gap = 0.1 / 1.1 / 0.05
    expected = 1 / (1 + torch.tensor(gap).exp())
    assert float(labels.double().mean()) == pytest.approx(float(expected), abs=4 * (0.25 / 4000) ** 0.5)
    chosen = prices(rows, bases, 0).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(costs, chosen, rtol=1e-4, atol=1e-5)
    again = assign_rows(rows, bases, temperature=0.05, generator=torch.Generator().manual_seed(1))[0]
    assert torch.equal(again, assign_rows(rows, bases, temperature=0.05, generator=torch.Generator().manual_seed(1))[0])


def test_a_temperature_is_fair_to_more_than_two() -> None:
    """Rows as near to two lines as each other, and further from a third: both take the same share, the third less."""
    generator = torch.Generator().manual_seed(0)
    rows = distinct_rows(torch.tensor([0.4**0.5, 0.4**0.5, 0.2**0.5]) * (1 + torch.rand(4000, 1, generator=generator)))
    bases = [torch.eye(3)[i : i + 1] for i in range(3)]
    labels, _ = assign_rows(rows, bases, temperature=0.1, generator=generator)
    expected = torch.tensor([0.4, 0.4, 0.2]).div(0.1).softmax(0)
    shares = torch.bincount(labels, minlength=3) / 4000
    torch.testing.assert_close(shares, expected, atol=4 * (0.25 / 4000) ** 0.5, rtol=0)


def test_subspaces_may_be_made_of_parts() -> None:
    """Three orthogonal parts in two bases: prices are those of the three subspaces they add up to."""
    rows, _ = fitted()
    first = torch.linalg.qr(torch.randn(16, 5, generator=torch.Generator().manual_seed(1))).Q.T
    second = torch.linalg.qr(torch.randn(16, 4, generator=torch.Generator().manual_seed(2))).Q.T
    parts = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]]).bool()
    residuals = squared_residuals(rows, [first[:2], first[2:], second], parts=parts).double()
    rents = 0.01 * rows.counts[:, None] * torch.tensor([2, 5, 4])
    found = (rows.weights[:, None] * residuals + rents).min(1)
    expected = assign_rows(rows, [first[:2], first, second], 0.01)
    assert torch.equal(found.indices, expected[0])
    torch.testing.assert_close(found.values, expected[1], rtol=1e-4, atol=1e-5)


def test_margins_say_how_clearly_rows_chose() -> None:
    """The difference of the two least prices over the row's energy, against the slow way; of one subspace, infinite."""
    rows, state = fitted()
    margins = torch.empty(len(rows))
    assign_rows(rows, state.bases, margins=margins)
    exact = prices(rows, state.bases, 0).sort(1).values
    expected = (exact[:, 1] - exact[:, 0]) / (rows.weights * rows.squared_norms())
    torch.testing.assert_close(margins.double(), expected, rtol=1e-3, atol=1e-5)
    assign_rows(rows, state.bases[:1], margins=margins)
    assert margins.isinf().all()


def test_only_the_rows_that_chose_least_clearly_are_assigned_again() -> None:
    """All rows are given a wrong label; the quarter of least margin is put right, at the cost that it has there."""
    rows, state = fitted()
    doubtful = DoubtfulRows(rows)
    labels, costs = assign_rows(rows, state.bases, margins=doubtful.margins)
    order = doubtful.margins.argsort()
    found = doubtful.assigned((labels + 1) % 4, state.bases, narrow=False)
    quarter = len(rows) // 4
    assert torch.equal(found[order[:quarter]], labels[order[:quarter]])
    assert torch.equal(found[order[quarter:]], (labels[order[quarter:]] + 1) % 4)
    torch.testing.assert_close(doubtful.costs[order[:quarter]], costs[order[:quarter]])
    assert not doubtful.costs[order[quarter:]].any()


def test_one_subspace_needs_no_choice() -> None:
    """With k = 1 every row belongs to it, narrow or not."""
    rows, state = fitted()
    for narrow in (False, True):
        assert not assign_rows(rows, state.bases[:1], narrow=narrow)[0].any()


def test_narrow_products_are_for_large_float32_tables_that_lose_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small or exact fits, and float64, keep full precision whatever the processor offers."""
    monkeypatch.setattr(assignment, "has_fast_bfloat16", lambda _: True)
    rows = distinct_rows(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))
    assert not narrow_products_pay(rows, 64, 0.1)
    monkeypatch.setattr(assignment, "_NARROW_MULTIPLICATIONS", 64 * 64 * 64)
    assert narrow_products_pay(rows, 64, 0.1)
    assert not narrow_products_pay(rows, 63, 0.1)
    assert not narrow_products_pay(rows, 64, 1e-3)
    assert not narrow_products_pay(distinct_rows(rows.table.double()), 64, 0.1)
    monkeypatch.setattr(assignment, "has_fast_bfloat16", lambda _: False)
    assert not narrow_products_pay(rows, 64, 0.1)


@pytest.mark.parametrize("seed", range(3))
def test_a_fit_with_narrow_products_ends_as_well(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one start the cost differs by less than a per cent, and what a phase holds rises by rounding only."""
    table = planted_table(700, 24, 6, 4, noise=0.3, seed=seed)[0]
    rows = distinct_rows(table)
    rule = free_ranks(0.4 * table.numel(), 24)
    start = random_partition(rows, 6, seed)
    full = alternate(rows, start, 6, rule, max_iter=60, tol=1e-4)
    monkeypatch.setattr(assignment, "has_fast_bfloat16", lambda _: True)
    monkeypatch.setattr(assignment, "_NARROW_MULTIPLICATIONS", 0)
    narrow = alternate(rows, start, 6, rule, max_iter=60, tol=1e-4)
    assert fitted_cost(rows, narrow) <= 1.01 * fitted_cost(rows, full)
    energy = float((rows.weights * rows.squared_norms()).sum())
    for before, after, old, new in zip(narrow.costs, narrow.costs[1:], narrow.phases, narrow.phases[1:], strict=False):
        assert old != new or after <= before + 1e-3 * energy
    assert has_fast_bfloat16(torch.device("meta")) is False
