"""Subspaces within one another: what they cost, what they save, and that nothing goes up on the way."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.test_alternate import assert_never_rises, awkward_tables
from tests.tiny import planted_table
from torch import Tensor

from foldflat.cluster.alternate import Alternation
from foldflat.cluster.fit import fit_rows, fitted_cost
from foldflat.cluster.groups import polar
from foldflat.cluster.levels import best_levels
from foldflat.cluster.nesting import nest
from foldflat.cluster.rows import WeightedRows, distinct_rows


def spent(rows: WeightedRows, state: Alternation) -> float:
    """Count coefficients row by row, and each shared basis once."""
    d, bases = rows.n_features, {}
    for group, basis in zip(state.groups, state.bases, strict=True):
        bases[group] = max(len(basis), bases.get(group, 0))
    ranks = torch.tensor([len(basis) for basis in state.bases], dtype=torch.float64)
    return float((rows.counts * ranks[state.labels]).sum()) + d * sum(bases.values())


def loud_and_quiet(n: int = 800, d: int = 24, seed: int = 0) -> Tensor:
    """Draw rows in two subspaces of falling spectrum whose lengths differ by a factor of e^2 and more."""
    table = planted_table(n, d, 2, 12, noise=0.02, seed=seed)[0]
    generator = torch.Generator().manual_seed(seed)
    return table * torch.randn(n, 1, generator=generator).exp()


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_different_energy_share_a_basis(seed: int) -> None:
    """Against subspaces of one rank each, at the same parameters, at least a fifth of the loss is saved."""
    table = loud_and_quiet(seed=seed)
    rows, budget = distinct_rows(table), 0.3 * table.numel()
    state = fit_rows(rows, 2, None, budget)
    nested = nest(rows, state, budget, basis_price=24)
    assert fitted_cost(rows, nested) < 0.8 * fitted_cost(rows, state)
    assert 0.97 * budget <= spent(rows, nested) <= budget
    assert len(set(nested.groups)) == 2
    assert len(nested.bases) > 4
    norms = rows.squared_norms()
    means = [float(norms[nested.labels == i].mean()) for i in range(len(nested.bases))]
    for group in (0, 1):
        own = [(len(nested.bases[i]), means[i]) for i in range(len(means)) if nested.groups[i] == group]
        assert own == sorted(own)


@given(awkward_tables(), st.floats(0.1, 1), st.integers(1, 4), st.integers(0, 99))
def test_costs_never_rise_and_the_budget_holds(
    case: tuple[Tensor, Tensor | None, int], keep: float, levels: int, seed: int
) -> None:
    """Whatever the rows: steps at one multiplier lower the cost, subspaces of a group are beginnings of one basis."""
    table, weights, k = case
    rows = distinct_rows(table, weights)
    d = rows.n_features
    budget = keep * float(rows.counts.sum()) * d
    state = fit_rows(rows, k, None, budget, seed=seed, max_iter=5)
    nested = nest(rows, state, budget, basis_price=d, levels=levels)
    assert_never_rises(rows, Alternation(nested.labels, costs=nested.costs, phases=nested.phases))
    assert spent(rows, nested) <= budget * (1 + 1e-9)
    assert torch.unique(nested.labels).tolist() == list(range(len(nested.bases)))
    for i, basis in enumerate(nested.bases):
        torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=rows.dtype), atol=1e-5, rtol=0)
        longer = [b for b, g in zip(nested.bases, nested.groups, strict=True) if g == nested.groups[i]]
        assert all(torch.equal(other[: len(basis)], basis[: len(other)]) for other in longer)
    counts = [nested.groups.count(group) for group in set(nested.groups)]
    assert max(counts) <= levels


def test_what_a_sample_found_is_taken_to_all_rows() -> None:
    """Nesting of every fourth row, taken up for all of them, costs nearly what nesting all of them does."""
    table = loud_and_quiet(1600)
    rows, budget = distinct_rows(table), 0.3 * table.numel()
    sample = rows.subset(torch.arange(0, 1600, 4))
    part = fit_rows(sample, 2, None, budget / 4, basis_price=6.0)
    found = nest(sample, part, budget / 4, basis_price=6.0)
    whole = nest(rows, found, budget, basis_price=24.0, phases=2)
    best = nest(rows, fit_rows(rows, 2, None, budget), budget, basis_price=24.0)
    assert spent(rows, whole) <= budget
    assert fitted_cost(rows, whole) <= 1.1 * fitted_cost(rows, best)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.floats(0.01, 0.5))
def test_ranks_are_nearly_the_best_of_all_choices(seed: int, levels: int, multiplier: float) -> None:
    """Against trying every set of at most so many ranks, every row at the best of them: within a fifth, and often it.

    Rows that want the same rank are kept together, which the best choice need not do; with a rank for each wish and
    a basis that is free, nothing is lost.
    """
    generator = np.random.default_rng(seed)
    grid = np.arange(6)
    gains = np.sort(generator.exponential(size=(12, 5)), 1)[:, ::-1] * generator.exponential(size=(12, 1))
    captured = np.concatenate([np.zeros((12, 1)), gains.cumsum(1)], 1)
    counts = generator.integers(1, 4, 12).astype(float)
    net = captured * counts[:, None] - multiplier * counts[:, None] * grid

    def value(ranks: list[int]) -> float:
        return float(net[:, ranks].max(1).sum()) - multiplier * 7 * max(ranks)

    found, numbers = best_levels(captured * counts[:, None], counts, grid, multiplier, 7, levels)
    sets = [[r for r in range(6) if code >> r & 1] for code in range(1, 64)]
    best = max(value(ranks) for ranks in sets if len(ranks) <= levels)
    assert best * (1 + 1e-9) >= value(found) >= 0.8 * best
    assert len(found) <= levels
    every, _ = best_levels(captured * counts[:, None], counts, grid, multiplier, 0, 6)
    assert float(net[:, every].max(1).sum()) == pytest.approx(float(net.max(1).sum()))
    assert numbers <= float(counts.sum()) * max(found) + 7 * max(found)


def test_the_nearest_orthonormal_matrix_is_found_also_without_full_rank() -> None:
    """It is U V^T of the singular value decomposition, and orthonormal where that is not unique."""
    matrix = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(polar(matrix), u @ vh, atol=1e-5, rtol=0)
    matrix[2] = matrix[1]
    matrix[3] = 0
    nearest = polar(matrix)
    torch.testing.assert_close(nearest @ nearest.T, torch.eye(4), atol=1e-5, rtol=0)
