"""The algebra of rows and subspaces: distances, Gram matrices, bases.

A basis is a (j, d) matrix with orthonormal rows. The squared distance of a row a to its span is |a|^2 - |V a|^2,
so one product of the rows with all bases gives every distance.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.rows import WeightedRows

__all__ = [
    "captured_energy",
    "coefficients",
    "eigenbases",
    "eigenbasis",
    "gram_matrix",
    "members_by_label",
    "squared_distances",
]

_BANDS = 4


def captured_energy(block: Tensor, stacked: Tensor, ranks: Sequence[int]) -> Tensor:
    """Return (b, k): the energy |V_i a|^2 of every row of `block` (b, d) in every subspace.

    Args:
        block: (b, d) rows.
        stacked: (sum of ranks, d), the bases on top of each other, of the type of `block`.
        ranks: the k ranks.

    Returns:
        float32 for bfloat16, else the type given.
    """
    products = block @ stacked.T
    if products.dtype == torch.bfloat16:
        products = products.float()
    if len(set(ranks)) == 1:
        norms: Tensor = torch.linalg.vector_norm(products.view(block.shape[0], len(ranks), ranks[0]), dim=2)
    else:
        parts = products.split(list(ranks), dim=1)
        norms = torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts], dim=1)
    return norms.square_()


def members_by_label(labels: Tensor, k: int) -> list[Tensor]:
    """Return, for each of the k labels, the positions that carry it, in increasing order."""
    order = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels, minlength=k).tolist()
    return list(order.split(sizes))


def gram_matrix(rows: WeightedRows, positions: Tensor) -> Tensor:
    """Return the weighted Gram matrix (d, d), the sum of w a a^T over the rows at `positions`.

    Only the blocks on and above the diagonal are multiplied.
    """
    d = rows.n_features
    gram = torch.zeros(d, d, dtype=rows.dtype, device=rows.table.device)
    bands = list(blocks(d, 1, elements=max(64, -(-d // _BANDS))))
    for part in blocks(positions.shape[0], d, elements=1 << 23):
        chosen = positions[part]
        block = rows.block(chosen).mul_(rows.weights[chosen].sqrt().to(rows.dtype)[:, None])
        for band in bands:
            gram[band, band.start :].addmm_(block[:, band].T, block[:, band.start :])
    for band in bands:
        gram[band.stop :, band] = gram[band, band.stop :].T
    return gram


def eigenbasis(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (d,), largest first and at least zero, and eigenvectors as rows (d, d).

    The sign of each eigenvector is canonical: its entry of largest magnitude is positive.
    """
    values, columns = torch.linalg.eigh(gram)
    vectors = columns.T.flip(0)
    peaks = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return values.flip(0).clamp_min_(0), vectors.mul_(torch.where(peaks < 0, -1, 1))


def eigenbases(rows: WeightedRows, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (k, d) and eigenvectors as rows (k, d, d) of the weighted Gram matrix of each cluster."""
    d = rows.n_features
    values = torch.empty(k, d, dtype=rows.dtype, device=rows.table.device)
    vectors = torch.empty(k, d, d, dtype=rows.dtype, device=rows.table.device)
    for i, members in enumerate(members_by_label(labels, k)):
        values[i], vectors[i] = eigenbasis(gram_matrix(rows, members))
    return values, vectors


def coefficients(block: Tensor, basis: Tensor) -> Tensor:
    """Return (b, j): the coordinates of the rows of `block` in `basis`."""
    return block @ basis.T


def squared_distances(rows: WeightedRows, labels: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """Return (m,) float64: squared distance of each row to its own subspace, from the residual itself.

    |a|^2 - |V a|^2 loses all digits where the residual is small; this does not.
    """
    distances = torch.zeros(len(rows), dtype=torch.float64, device=labels.device)
    for basis, members in zip(bases, members_by_label(labels, len(bases)), strict=True):
        for part in blocks(members.shape[0], rows.n_features):
            block = rows.block(members[part])
            residual = block - coefficients(block, basis) @ basis
            distances[members[part]] = residual.square().sum(1).double()
    return distances
