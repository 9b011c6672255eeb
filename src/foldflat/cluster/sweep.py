"""One pass over all rows of a table, chunk by chunk: assignment and Gram matrices, added up over a team."""

from collections.abc import Iterable, Iterator, Sequence
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

__all__ = ["Block", "Choices", "Totals", "assign_and_total", "choices", "chunk_rows", "priced", "totals_of"]

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


@dataclass(frozen=True)
class Choices:
    """Hold where rows go at each of rising multipliers, which few of them change their mind between.

    Attributes:
        multipliers: energy that one coefficient must save.
        numbers: coefficients that all rows of all ranks take at each multiplier.
        settled: (n,) int16 labels of this rank's own rows at the first multiplier.
        moving: (m,) positions of rows that go elsewhere at the last.
        residuals: (m, k) float64 weighted squared distances of those.
        ranks: (k,) float64.
    """

    multipliers: Sequence[float]
    numbers: list[float]
    settled: Tensor
    moving: Tensor
    residuals: Tensor
    ranks: Tensor

    def labels_at(self, i: int) -> Tensor:
        """Return (n,) int16 labels at the i-th multiplier, exactly those that were counted."""
        moved = _cheapest(self.residuals, self.multipliers[i], self.ranks)
        return self.settled.index_copy(0, self.moving, moved.to("cpu", torch.int16))


def priced(block: Block, groups: Sequence[Group], near: float) -> Iterator[Tensor]:
    """Yield (rows, k) float64 weighted squared distances, chunk by chunk; see `candidate_residuals`."""
    for _, chunk in block.chunks():
        yield candidate_residuals(chunk, groups, near)


def choices(distances: Iterable[Tensor], groups: Sequence[Group], multipliers: Sequence[float], team: Team) -> Choices:
    """Assign every row to its cheapest subspace at each of rising multipliers.

    Args:
        distances: those of this rank's rows, see `priced`.
        groups: subspaces.
        multipliers: energy that one coefficient must save.
        team: who holds the other rows.
    """
    settled, moving, kept, first = [torch.empty(0, dtype=torch.int16)], [torch.empty(0, dtype=torch.int64)], [], 0
    ranks = ranks_of(groups)
    spent = torch.zeros(len(multipliers), dtype=torch.float64)
    for residuals in distances:
        ranks = ranks.to(residuals.device)
        most, least = (_cheapest(residuals, end, ranks) for end in (multipliers[0], multipliers[-1]))
        # a higher multiplier never raises a rank, so what both ends agree on holds between them
        spent += float(ranks[most[most == least]].sum())
        changing = torch.nonzero(most != least).squeeze(1)
        kept.append(residuals[changing])
        for i, multiplier in enumerate(multipliers):
            spent[i] += float(ranks[_cheapest(kept[-1], multiplier, ranks)].sum())
        settled.append(most.to("cpu", torch.int16))
        moving.append(first + changing.cpu())
        first += len(residuals)
    rest = torch.cat(kept) if kept else torch.empty(0, len(ranks), dtype=torch.float64)
    numbers: list[float] = team.total(spent).tolist()
    return Choices(multipliers, numbers, torch.cat(settled), torch.cat(moving), rest, ranks)


def _cheapest(residuals: Tensor, multiplier: float, ranks: Tensor) -> Tensor:
    return (residuals + multiplier * ranks).argmin(1)


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
