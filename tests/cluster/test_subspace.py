from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from foldflat.cluster import subspace
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.subspace import (
    BasisStack,
    eigenbases,
    eigenbasis,
    gram_matrix,
    members_by_label,
    pulled_bases,
    squared_distances,
)


def random_rows(n: int, d: int, dtype: torch.dtype = torch.float64) -> WeightedRows:
    """Draw normal rows with weights between a half and one and a half."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(n, d, generator=generator, dtype=dtype)
    return distinct_rows(table, 0.5 + torch.rand(n, generator=generator))


def random_basis(rank: int, d: int, seed: int) -> Tensor:
    """Draw a (rank, d) matrix with orthonormal rows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, rank, generator=generator, dtype=torch.float64)).Q.mT


@pytest.mark.parametrize("ranks", [[2, 2, 2], [3, 0, 1], [0, 0], [5], [5, 1, 4, 1, 0, 5]])
def test_captured_energy_is_the_length_of_the_projection(ranks: list[int]) -> None:
    """|V a|^2 for every row and subspace, of equal and different ranks and of rank zero."""
    block = random_rows(7, 5).block(slice(None))
    bases = [random_basis(rank, 5, seed) for seed, rank in enumerate(ranks)]
    found = BasisStack(bases).captured_energy(block)
    projections = [block @ basis.T @ basis for basis in bases]
    expected = torch.stack([projection.square().sum(1) for projection in projections], dim=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("d", [4, 70])
def test_a_gram_matrix_is_the_weighted_sum_of_outer_products(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix is the sum of w a a^T over the chosen rows, also in blocks of three rows; of no rows it is zero."""
    rows = random_rows(11, d)
    chosen = torch.tensor([0, 1, 3, 5, 6, 8, 9, 10])
    expected = torch.zeros(d, d, dtype=torch.float64)
    for row, weight in zip(rows.block(chosen), rows.weights[chosen], strict=True):
        expected += weight * torch.outer(row, row)

    def threes(length: int, *_: int, **__: int) -> Iterator[slice]:
        yield from (slice(i, min(i + 3, length)) for i in range(0, length, 3))

    torch.testing.assert_close(gram_matrix(rows, chosen), expected)
    monkeypatch.setattr(subspace, "blocks", threes)
    torch.testing.assert_close(gram_matrix(rows, chosen), expected)
    assert not gram_matrix(rows, chosen[:0]).any()


def test_every_cluster_has_the_eigenvectors_of_its_own_rows() -> None:
    """V^T diag(values) V is the Gram matrix of the cluster; a cluster without rows has values of zero."""
    rows = random_rows(11, 4)
    labels = torch.tensor([0, 0, 2, 0, 2, 0, 0, 1, 0, 0, 0])
    values, vectors = eigenbases(rows, labels, 4)
    for i in range(4):
        rebuilt = vectors[i].T @ values[i].diag() @ vectors[i]
        torch.testing.assert_close(rebuilt, gram_matrix(rows, torch.nonzero(labels == i).squeeze(1)))


def _threads_after_work() -> int:
    torch.ones(8, 8) @ torch.ones(8, 8)
    return torch.get_num_threads()


def test_eigenvectors_found_side_by_side_are_the_same() -> None:
    """With two threads as with one; and torch uses as many afterwards as before, in later threads too."""
    rows = random_rows(600, 128, torch.float32)
    labels = torch.arange(600) % 3
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(eigenbases(rows, labels, 3))
            with ThreadPoolExecutor(1) as pool:
                later = pool.submit(_threads_after_work).result()
            assert (torch.get_num_threads(), later) == (count, count)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[1][0], found[0][0])
    for vectors, values in zip(found[1][1], found[1][0], strict=True):
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(128), atol=1e-5, rtol=0)
        assert (values.diff() <= 0).all()


@pytest.mark.parametrize("d", [8, 150])
def test_a_pulled_basis_captures_no_less(d: int) -> None:
    """Orthonormal, its energy what is returned, never below the one before, and at last that of the eigenvectors."""
    generator = torch.Generator().manual_seed(d)
    grams = [(block := torch.randn(2 * d, d, generator=generator) * torch.linspace(2, 0.1, d)).T @ block for _ in "ab"]
    bases = [torch.linalg.qr(torch.randn(d, rank, generator=generator)).Q.T for rank in (d // 2, 3)]
    before = torch.tensor([float(((basis @ gram) * basis).sum()) for basis, gram in zip(bases, grams, strict=True)])
    for _ in range(300):
        bases, captured = pulled_bases(grams, bases)
        assert bool((captured >= before * (1 - 1e-5)).all())
        before = captured
    for basis, gram, energy in zip(bases, grams, captured.tolist(), strict=True):
        torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), atol=1e-5, rtol=0)
        assert energy == pytest.approx(float(eigenbasis(gram)[0][: len(basis)].sum()), rel=1e-3)


def test_members_are_listed_by_label() -> None:
    """Positions come in increasing order, and a label that nobody carries has none."""
    assert [list(m) for m in members_by_label(torch.tensor([2, 0, 2, 2, 0]), 4)] == [[1, 4], [], [0, 2, 3], []]


def test_eigenvectors_have_the_sign_and_order_written_down_by_hand() -> None:
    """[[2, -2], [-2, 5]] has eigenvalues 6 and 1, along (-1, 2) and (2, 1): peaks turned positive."""
    values, vectors = eigenbasis(torch.tensor([[2.0, -2.0], [-2.0, 5.0]], dtype=torch.float64))
    assert values.tolist() == pytest.approx([6, 1])
    expected = np.array([[-1, 2], [2, 1]]) / np.sqrt(5)
    np.testing.assert_allclose(vectors.numpy(), expected, atol=1e-12)


def test_rounding_below_zero_is_no_energy() -> None:
    """A Gram matrix of rank one in float32 has no negative eigenvalue, whatever rounding says."""
    row = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    values, vectors = eigenbasis(row.T @ row)
    assert values.min() == 0
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(40), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-2), (torch.float64, 1e-6)])
def test_distances_keep_their_digits_where_the_residual_is_tiny(dtype: torch.dtype, tolerance: float) -> None:
    """Residuals of 1e-4 beside rows of length 10: |a|^2 - |V a|^2 would be all rounding in float32."""
    generator = torch.Generator().manual_seed(1)
    basis = random_basis(3, 8, seed=2)
    inside = 10 * torch.nn.functional.normalize(torch.randn(50, 3, generator=generator, dtype=torch.float64))
    table = inside @ basis + 1e-4 * torch.randn(50, 8, generator=generator, dtype=torch.float64)
    stored = table.to(dtype)
    rows, bases = distinct_rows(stored), [basis.to(dtype)]
    found = squared_distances(rows, torch.zeros(50, dtype=torch.int64), bases)
    exact = stored.double()[rows.index]
    exact -= exact @ bases[0].double().T @ bases[0].double()
    assert float(found.sum()) == pytest.approx(float(exact.square().sum()), rel=tolerance)
    assert found.dtype == torch.float64
