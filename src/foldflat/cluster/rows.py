"""Rows to cluster: distinct, weighted, in an order that does not depend on how they were given."""

from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.axes import blocks, compute_dtype
from foldflat.randomness import torch_generator

__all__ = ["WeightedRows", "distinct_rows", "every_row", "sampled_positions"]

_HASH_SEED = 0x5EED


@dataclass(frozen=True)
class WeightedRows:
    """Hold m distinct rows of an (n, d) table by reference, with their weights.

    Attributes:
        table: (n, d) numbers of any floating type; never copied.
        index: (m,) the row of `table` that stands for each distinct row.
        weights: (m,) float64, positive, mean one.
        counts: (m,) float64, how many rows of the table are equal to this one.
        inverse: (n,) the distinct row of every row of the table, -1 for rows of weight zero.
        scale: given weight of one unit of `weights`.
    """

    table: Tensor
    index: Tensor
    weights: Tensor
    counts: Tensor
    inverse: Tensor
    scale: float = 1.0

    @property
    def n_features(self) -> int:
        """Return d."""
        return int(self.table.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Return the type that computing on these rows uses."""
        return compute_dtype(self.table.dtype)

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def block(self, positions: Tensor | slice) -> Tensor:
        """Return a copy of the distinct rows at `positions`, (b, d) in the computing type."""
        return self.table[self.index[positions]].to(self.dtype)

    def squared_norms(self) -> Tensor:
        """Return (m,) squared lengths in the computing type."""
        parts = [self.block(part).square().sum(1) for part in blocks(len(self), self.n_features)]
        return torch.cat(parts)

    def energy(self) -> float:
        """Return the weighted sum of squared lengths."""
        return float((self.weights * self.squared_norms().double()).sum())

    def subset(self, positions: Tensor) -> "WeightedRows":
        """Return the distinct rows at `positions` alone; their `inverse` is empty."""
        return WeightedRows(
            self.table,
            self.index[positions],
            self.weights[positions],
            self.counts[positions],
            self.inverse[:0],
            self.scale,
        )


def distinct_rows(table: Tensor, weights: Tensor | None = None, counts: Tensor | None = None) -> WeightedRows:
    """Merge equal rows and add up their weights, so that weight 2 equals the row given twice.

    Rows are ordered by a hash of their numbers: any order of the same rows gives the same result. Rows of weight
    zero take no part.

    Args:
        table: (n, d), finite.
        weights: (n,), non-negative, not all zero; None means one each.
        counts: (n,) float64, how many rows each stands for; None means one each.
    """
    n = table.shape[0]
    given = torch.ones(n, dtype=torch.float64, device=table.device) if weights is None else weights.double()
    kept = torch.nonzero(given > 0).squeeze(1)
    hashes = _row_hashes(table)[kept]
    unique, group = torch.unique(hashes, return_inverse=True)
    m = unique.shape[0]
    first = torch.full((m,), n, dtype=torch.int64, device=table.device)
    first.scatter_reduce_(0, group, kept, "amin")
    if not _equal_to_representative(table, kept, first[group]):
        _, group = torch.unique(table[kept], dim=0, return_inverse=True)
        m = int(group.max()) + 1
        first = torch.full((m,), n, dtype=torch.int64, device=table.device)
        first.scatter_reduce_(0, group, kept, "amin")
    totals = torch.zeros(m, dtype=torch.float64, device=table.device).index_add_(0, group, given[kept])
    counts = torch.bincount(group, None if counts is None else counts[kept], minlength=m).double()
    inverse = torch.full((n,), -1, dtype=torch.int64, device=table.device)
    inverse[kept] = group
    scale = float(totals.sum()) / m
    return WeightedRows(table, first, totals / scale, counts, inverse, scale)


def every_row(table: Tensor, weights: Tensor | None = None) -> WeightedRows:
    """Take rows as they are given: none merged or moved, weights (n,) in their own units."""
    index = torch.arange(len(table), device=table.device)
    ones = torch.ones(len(table), dtype=torch.float64, device=table.device)
    given = ones if weights is None else weights.to(table.device, torch.float64)
    return WeightedRows(table, index, given, ones, index)


def sampled_positions(rows: WeightedRows, size: int, seed: int) -> Tensor:
    """Return the positions of at most `size` distinct rows, drawn without replacement, in increasing order."""
    positions = torch.arange(len(rows))
    if len(rows) > size:
        positions = torch.randperm(len(rows), generator=torch_generator(seed))[:size].sort().values
    return positions.to(rows.table.device)


def _row_hashes(table: Tensor) -> Tensor:
    dtype = compute_dtype(table.dtype)
    bits = torch.int64 if dtype == torch.float64 else torch.int32
    low, high = -(2**62), 2**62
    factors = torch.randint(low, high, (table.shape[1],), generator=torch_generator(_HASH_SEED)) * 2 + 1
    factors = factors.to(table.device)
    hashes = torch.empty(table.shape[0], dtype=torch.int64, device=table.device)
    for part in blocks(table.shape[0], 4 * table.shape[1]):
        # adding zero turns -0.0 into 0.0, which is the same number with other bits
        words = (table[part].to(dtype) + 0.0).contiguous().view(bits).to(torch.int64)
        hashes[part] = ((words ^ (words >> 29)) * factors).sum(1)
    return hashes


def _equal_to_representative(table: Tensor, rows: Tensor, representatives: Tensor) -> bool:
    doubtful = torch.nonzero(rows != representatives).squeeze(1)
    for part in blocks(doubtful.shape[0], table.shape[1]):
        chosen = doubtful[part]
        if not torch.equal(table[rows[chosen]], table[representatives[chosen]]):
            return False
    return True
