"""A start for rows without any common direction: rows of one subspace have large squared cosines with each other."""

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.centres import kmeans_centres
from foldflat.cluster.rows import WeightedRows, sampled_positions

__all__ = ["spectral_partition"]

_SAMPLE_ROWS = 3072
_PER_SUBSPACE = 16
_CENTRE_STARTS = 4
_LEAST_EIGENVALUE = 1e-6


def spectral_partition(rows: WeightedRows, k: int, seed: int, *, sample_rows: int | None = None) -> Tensor:
    """Return (m,) labels from spectral clustering by squared cosines.

    Rows that are spread evenly over a subspace have no mean direction for k-means to find; the expected squared
    cosine of two of them is 1 / rank, that of rows of subspaces that have nothing in common is nought. The k leading
    eigenvectors of the normalised matrix of squared cosines of at most `sample_rows` (3,072) rows, or 16 per subspace,
    are clustered by k-means; other rows follow by the Nystroem extension.

    Source: Ng, Jordan and Weiss, "On Spectral Clustering", NIPS 2001, for the embedding; affinities of squared cosines
    are ours for this purpose, as a kernel on lines through the origin.
    """
    if k == 1:
        return torch.zeros(len(rows), dtype=torch.int64, device=rows.table.device)
    drawn = sampled_positions(rows, max(sample_rows or _SAMPLE_ROWS, _PER_SUBSPACE * k), seed)
    directions, usable = _directions(rows.block(drawn))
    if not bool(usable.any()):
        return torch.zeros(len(rows), dtype=torch.int64, device=rows.table.device)
    directions, weights = directions[usable], rows.weights[drawn][usable]
    affinity = (directions @ directions.T).square_()
    degrees = affinity.sum(1).clamp_min_(torch.finfo(affinity.dtype).tiny)
    roots = degrees.rsqrt()
    values, vectors = _leading(affinity.mul_(roots[:, None]).mul_(roots), k)
    # from a row's affinities to its place among the leading eigenvectors
    extension = roots[:, None] * vectors / values.clamp_min(_LEAST_EIGENVALUE)
    points = _placed(directions, directions, extension)
    centres = torch.from_numpy(
        kmeans_centres(points.cpu().numpy(), weights.cpu().numpy(), k, seed, n_init=_CENTRE_STARTS)
    ).to(points)
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.table.device)
    for part in blocks(len(rows), max(len(directions), rows.n_features)):
        placed = _placed(_directions(rows.block(part))[0], directions, extension)
        # points and centres differ in length, so the nearest centre is not the one of largest product
        labels[part] = torch.cdist(placed, centres).argmin(1)
    return labels


def _leading(affinity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    m = len(affinity)
    if k > m // 4:
        values, vectors = torch.linalg.eigh(affinity)
        return values[-k:], vectors[:, -k:]
    matrix = affinity.cpu().numpy()
    values, vectors = eigsh(matrix, k, v0=np.ones(m, dtype=matrix.dtype), tol=1e-4)
    return torch.from_numpy(values).to(affinity), torch.from_numpy(vectors).to(affinity)


def _directions(block: Tensor) -> tuple[Tensor, Tensor]:
    norms = block.norm(dim=1, keepdim=True)
    return block / norms.clamp_min(torch.finfo(block.dtype).tiny), norms[:, 0] > 0


def _placed(directions: Tensor, landmarks: Tensor, extension: Tensor) -> Tensor:
    """Return (b, k): unit vectors of the rows' coordinates along the leading eigenvectors."""
    placed: Tensor = (directions @ landmarks.T).square_() @ extension
    unit: Tensor = placed / placed.norm(dim=1, keepdim=True).clamp_min(torch.finfo(placed.dtype).tiny)
    return unit
