"""The algebra of rows and subspaces: distances, Gram matrices, bases.

A basis is a (j, d) matrix with orthonormal rows. The squared distance of a row a to its span is |a|^2 - |V a|^2,
so one product of the rows with all bases gives every distance.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.threads import side_by_side

__all__ = [
    "BasisStack",
    "coefficients",
    "eigenbases",
    "eigenbases_of",
    "eigenbasis",
    "gram_matrix",
    "members_by_label",
    "pulled_bases",
    "spectra_of",
    "squared_distances",
]

_BANDS = 4
_WIDTHS = 8
_LEAST_SIDE_BY_SIDE = 128
_ONE_BAND = 64
_BLOCK_ELEMENTS = 1 << 23


class BasisStack:
    """Hold k bases as one matrix, so that one product gives the energy of rows in every subspace.

    Ranks are padded to at most eight values, with few zeros; subspaces of one value stand together, and their energies
    are summed in one call each.
    """

    def __init__(self, bases: Sequence[Tensor], dtype: torch.dtype | None = None) -> None:
        """Copy the bases.

        Args:
            bases: k matrices (rank_i, d).
            dtype: type to multiply in; default that of the bases.
        """
        ranks = [len(basis) for basis in bases]
        widths = _padded(ranks)
        order = sorted(range(len(bases)), key=lambda i: widths[i])
        self._runs = [(width, widths.count(width)) for width in sorted(set(widths))]
        self.matrix = bases[0].new_zeros(sum(widths), bases[0].shape[1], dtype=dtype or bases[0].dtype)
        start = 0
        for i in order:
            self.matrix[start : start + ranks[i]] = bases[i]
            start += widths[i]
        places = torch.tensor(order).argsort()
        self._places = None if order == sorted(order) else places.to(self.matrix.device)

    def captured_energy(self, block: Tensor) -> Tensor:
        """Return (b, k): the energy |V_i a|^2 of every row of `block` (b, d) in every subspace; at least float32."""
        products = block.to(self.matrix.dtype) @ self.matrix.T
        if products.dtype == torch.bfloat16:
            products = products.float()
        parts = products.split([width * count for width, count in self._runs], dim=1)
        norms = [
            torch.linalg.vector_norm(part.unflatten(1, (count, width)), dim=2)
            if width
            else part.new_zeros(len(part), count)
            for part, (width, count) in zip(parts, self._runs, strict=True)
        ]
        energies = (norms[0] if len(norms) == 1 else torch.cat(norms, 1)).square_()
        return energies if self._places is None else energies.index_select(1, self._places)


def _padded(ranks: Sequence[int]) -> list[int]:
    """Return for each rank one of at most eight widths that hold it; the two that cost least zeros are merged first."""
    counts = sorted(Counter(ranks).items())
    while len(counts) > _WIDTHS:
        zeros = [counts[i][1] * (counts[i + 1][0] - counts[i][0]) for i in range(len(counts) - 1)]
        i = zeros.index(min(zeros))
        counts[i : i + 2] = [(counts[i + 1][0], counts[i][1] + counts[i + 1][1])]
    widths = [width for width, _ in counts]
    return [widths[bisect_left(widths, rank)] for rank in ranks]


def members_by_label(labels: Tensor, k: int) -> list[Tensor]:
    """Return, for each of the k labels, the positions that carry it, in increasing order."""
    order = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels, minlength=k).tolist()
    return list(order.split(sizes))


def gram_matrix(
    rows: WeightedRows, positions: Tensor, weights: Tensor | None = None, centre: Tensor | None = None
) -> Tensor:
    """Return the weighted Gram matrix (d, d), the sum of w a a^T over the rows at `positions`.

    Only the blocks on and above the diagonal are multiplied, in one call where there is one block.

    Args:
        rows: m distinct rows.
        positions: of the rows that count.
        weights: (m,) weights in place of the rows' own.
        centre: (d,) subtracted from every row.
    """
    weights = rows.weights if weights is None else weights
    d = rows.n_features
    if d <= _ONE_BAND and len(positions) * d <= _BLOCK_ELEMENTS:
        # calls take longer than what they compute
        block = _weighted_block(rows, positions, weights, centre)
        return block.T @ block
    gram = torch.zeros(d, d, dtype=rows.dtype, device=rows.table.device)
    bands = list(blocks(d, 1, elements=max(_ONE_BAND, -(-d // _BANDS))))
    for part in blocks(positions.shape[0], d, elements=_BLOCK_ELEMENTS):
        block = _weighted_block(rows, positions[part], weights, centre)
        for band in bands:
            gram[band, band.start :].addmm_(block[:, band].T, block[:, band.start :])
    for band in bands:
        gram[band.stop :, band] = gram[band, band.stop :].T
    return gram


def _weighted_block(rows: WeightedRows, positions: Tensor, weights: Tensor, centre: Tensor | None) -> Tensor:
    block = rows.block(positions)
    if centre is not None:
        block -= centre
    return block.mul_(weights[positions].sqrt().to(rows.dtype)[:, None])


def eigenbasis(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (d,), largest first and at least zero, and eigenvectors as rows (d, d).

    The sign of each eigenvector is canonical: its entry of largest magnitude is positive.
    """
    values, columns = torch.linalg.eigh(gram)
    values, vectors = _descending(values[None], columns[None])
    return values[0], vectors[0]


def _descending(values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    vectors = columns.mT.flip(1).contiguous()
    peaks = vectors.gather(2, vectors.abs().argmax(2, keepdim=True))
    return values.flip(1).clamp_min_(0), vectors.mul_(torch.where(peaks < 0, -1, 1))


def eigenbases(rows: WeightedRows, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (k, d) and eigenvectors as rows (k, d, d) of the weighted Gram matrix of each cluster."""
    return eigenbases_of([gram_matrix(rows, members) for members in members_by_label(labels, k)])


def eigenbases_of(grams: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (k, d) and eigenvectors as rows (k, d, d) of k Gram matrices (d, d)."""
    k, d = len(grams), len(grams[0])
    if d < _LEAST_SIDE_BY_SIDE:
        # signs in few calls for all, but solved one by one: where a matrix stands in a batch decides its last bits
        values, columns = (torch.stack(parts) for parts in zip(*map(torch.linalg.eigh, grams), strict=True))
        return _descending(values, columns)
    values, vectors = grams[0].new_empty(k, d), grams[0].new_empty(k, d, d)

    def solve(i: int) -> None:
        values[i], vectors[i] = eigenbasis(grams[i])

    _for_each(solve, grams)
    return values, vectors


def spectra_of(grams: Sequence[Tensor]) -> Tensor:
    """Return eigenvalues (k, d), largest first and at least zero, of k Gram matrices (d, d)."""
    values = grams[0].new_empty(len(grams), len(grams[0]))

    def solve(i: int) -> None:
        values[i] = torch.linalg.eigvalsh(grams[i])

    _for_each(solve, grams)
    return values.flip(1).clamp_min_(0)


def pulled_bases(grams: Sequence[Tensor], bases: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return bases (rank_i, d) that one orthogonal iteration leads to, and (k,) float64 the energy each captures.

    No basis captures less than before: the step that takes V to orthonormal rows of V G maximises the trace of W G V^T
    over W, which bounds the geometric mean of both energies. It takes a third of an eigendecomposition's time.

    Args:
        grams: k Gram matrices (d, d).
        bases: k matrices (rank_i, d) with orthonormal rows.
    """
    pulled = list(bases)
    captured = torch.zeros(len(grams), dtype=torch.float64)

    def pull(i: int) -> None:
        pulled[i] = torch.linalg.qr((bases[i] @ grams[i]).T).Q.T.contiguous()
        captured[i] = ((pulled[i] @ grams[i]) * pulled[i]).sum(dtype=torch.float64)

    _for_each(pull, grams)
    return pulled, captured


def _for_each(solve: Callable[[int], None], grams: Sequence[Tensor]) -> None:
    """Call a function for each of k Gram matrices."""
    # LAPACK gains little from several threads, and much waiting where other processes use them
    side_by_side(
        solve, range(len(grams)), worthwhile=grams[0].device.type == "cpu" and len(grams[0]) >= _LEAST_SIDE_BY_SIDE
    )


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
