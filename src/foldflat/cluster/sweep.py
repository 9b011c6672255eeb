"""One pass over all rows of a table, chunk by chunk: assignment and Gram matrices, added up over a team."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.axes import blocks, compute_dtype
from foldflat.cluster.candidates import assign_nested, candidate_residuals
from foldflat.cluster.distributed import Team
from foldflat.cluster.groups import Group, ranks_of
from foldflat.cluster.rows import WeightedRows, every_row
from foldflat.cluster.source import RowSource
from foldflat.cluster.subspace import gram_matrix, members_by_label

__all__ = ["Block", "Totals", "assign_and_total", "assign_exactly", "chunk_rows", "spending", "totals_of"]

CHUNK_ELEMENTS = 1 << 24
"""Numbers of a chunk of rows (64 MiB in float32): enough of each subspace for products to run at speed."""

_WIDE_ELEMENTS = 1 << 24
_MOST_ROWS = 1 << 16


@dataclass(frozen=True)
class Block:
    """Hold the rows of one rank by reference.

    Attributes:
        rows: (n, d), finite.
        weights: (n,) non-negative row weights, None for one each.
        team: who holds the other rows.
        first: position of the first row in the table of all ranks.
    """

    rows: RowSource
    weights: Tensor | None
    team: Team
    first: int = 0

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def chunks(self) -> Iterator[tuple[slice, WeightedRows]]:
        """Yield consecutive rows, read once; none are merged."""
        n, d = self.rows.shape
        for part in blocks(n, 1, elements=chunk_rows(d)):
            chunk = self.rows[part].to(compute_dtype(self.rows.dtype))
            yield part, every_row(chunk, None if self.weights is None else self.weights[part])


def chunk_rows(d: int) -> int:
    """Return the rows of a chunk."""
    return max(1, min(CHUNK_ELEMENTS // d, _MOST_ROWS))


@dataclass
class Totals:
    """Hold sums over all rows of all ranks.

    Attributes:
        grams: (k, d, d) weighted Gram matrix of each subspace's rows.
        counts: (k,) float64 rows of each subspace.
        energy: weighted sum of squared lengths.
    """

    grams: Tensor
    counts: Tensor
    energy: float


def assign_and_total(block: Block, groups: Sequence[Group], multiplier: float) -> Totals:
    """Send every row to its cheapest subspace, and add up what a refit needs."""
    sums = _Sums(block, sum(len(group.ranks) for group in groups))
    for _, chunk in block.chunks():
        sums.add(chunk, assign_nested(chunk, groups, multiplier))
    return sums.over(block.team)


def totals_of(block: Block, labels: Tensor, k: int) -> Totals:
    """Add up what a refit needs, for labels (n,) that are given."""
    sums = _Sums(block, k)
    for part, chunk in block.chunks():
        sums.add(chunk, labels[part].to(chunk.table.device, torch.int64))
    return sums.over(block.team)


def assign_exactly(block: Block, groups: Sequence[Group], multiplier: float, near: float) -> Tensor:
    """Return (n,) int16 labels of the block's own rows, as `spending` counts them."""
    labels = torch.empty(len(block), dtype=torch.int16)
    ranks = ranks_of(groups, block.rows.device)
    for part, chunk in block.chunks():
        residuals = candidate_residuals(chunk, groups, near)
        labels[part] = (residuals + multiplier * ranks).argmin(1).to("cpu", torch.int16)
    return labels


def spending(block: Block, groups: Sequence[Group], multipliers: Sequence[float], near: float) -> list[float]:
    """Return the coefficients that all rows of all ranks together take at each of rising multipliers.

    Rows choose between the bases that are candidates at the multiplier `near`.
    """
    ranks = ranks_of(groups, block.rows.device)
    spent = torch.zeros(len(multipliers), dtype=torch.float64, device=ranks.device)
    for _, chunk in block.chunks():
        residuals = candidate_residuals(chunk, groups, near)
        most, least = ((residuals + end * ranks).argmin(1) for end in (multipliers[0], multipliers[-1]))
        # a higher multiplier never raises a rank, so what both ends agree on holds between them
        spent += ranks[most[most == least]].sum()
        moving = residuals[most != least]
        for i, multiplier in enumerate(multipliers):
            spent[i] += ranks[(moving + multiplier * ranks).argmin(1)].sum()
    found: list[float] = block.team.total(spent).tolist()
    return found


class _Sums:
    def __init__(self, block: Block, k: int) -> None:
        d, device = block.rows.shape[1], block.rows.device
        self._dtype = compute_dtype(block.rows.dtype)
        # sums that do not depend on which rank holds which chunk, where that takes little memory
        wide = torch.float64 if k * d * d <= _WIDE_ELEMENTS else self._dtype
        self._grams = torch.zeros(k, d, d, dtype=wide, device=device)
        self._counts = torch.zeros(k + 1, dtype=torch.float64, device=device)

    def add(self, chunk: WeightedRows, labels: Tensor) -> None:
        k = len(self._grams)
        for i, members in enumerate(members_by_label(labels, k)):
            if len(members):
                self._grams[i] += gram_matrix(chunk, members)
        self._counts[:k] += torch.bincount(labels, minlength=k)
        self._counts[k] += chunk.energy()

    def over(self, team: Team) -> Totals:
        grams, counts = team.total(self._grams), team.total(self._counts)
        return Totals(grams.to(self._dtype), counts[:-1], float(counts[-1]))
