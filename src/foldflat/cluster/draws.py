"""Rows drawn from a table that several processes hold in parts; the same rows on each."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foldflat.axes import blocks, compute_dtype
from foldflat.cluster.distributed import place_of
from foldflat.cluster.importance import inclusion_probabilities
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.sweep import Block

__all__ = ["Drawn", "draw_by_shares", "draw_uniformly"]


@dataclass(frozen=True)
class Drawn:
    """Hold drawn rows in memory.

    Attributes:
        rows: (s, d) in the type to compute in.
        weights: (s,) float64 row weights, each times the rows that the drawn one stands for.
        counts: (s,) float64 rows of the table that each stands for; ones where all stand for the same number.
    """

    rows: Tensor
    weights: Tensor
    counts: Tensor

    def distinct(self, device: torch.device, part: slice = slice(None)) -> WeightedRows:
        """Return the drawn rows, or a part of them, on a device; equal ones merged."""
        return distinct_rows(*(values[part].to(device) for values in (self.rows, self.weights, self.counts)))


def draw_uniformly(block: Block, n: int, size: int, seed: int) -> Drawn:
    """Draw `size` rows, at most n, from those of all ranks without replacement, in random order."""
    size = min(n, size)
    positions = torch.from_numpy(np.random.default_rng(seed).choice(n, size, replace=False))
    here = torch.nonzero((positions >= block.first) & (positions < block.first + len(block))).squeeze(1)
    own = positions[here] - block.first
    return _gathered(block, own, torch.ones(len(own), dtype=torch.float64), here, size)


def draw_by_shares(block: Block, shares: Tensor, size: int, seed: int) -> Drawn:
    """Draw about `size` rows of all ranks independently, row i with probability min(1, c p_i).

    Which rows are drawn depends on their place in the whole table, not on which rank holds them.

    Args:
        block: the rows of this rank, its `first` set.
        shares: (n,) the p_i of the block's own rows, see `foldflat.cluster.importance.row_shares`.
        size: rows to draw on average.
        seed: what is drawn follows from it.
    """
    included = inclusion_probabilities(shares, size, block.team)
    # one number a row, counted from the first row of the whole table
    bits = np.random.PCG64(seed)
    bits.advance(block.first)
    drawn = torch.from_numpy(np.random.Generator(bits).random(len(block))) < included
    own = torch.nonzero(drawn).squeeze(1)
    first, total = place_of(len(own), block.team)
    return _gathered(block, own, 1 / included[own], torch.arange(first, first + len(own)), total)


def _gathered(block: Block, own: Tensor, counts: Tensor, places: Tensor, size: int) -> Drawn:
    """Return on every rank `size` rows, of which this one holds those at `own` and puts them at `places`."""
    rows = torch.zeros(size, block.rows.shape[1], dtype=compute_dtype(block.rows.dtype))
    for part in blocks(len(own), rows.shape[1]):
        rows[places[part]] = block.rows[own[part].to(block.rows.device)].to("cpu", rows.dtype)
    given = torch.ones(len(own), dtype=torch.float64)
    if block.weights is not None:
        given = block.weights[own.to(block.weights.device)].to("cpu", given.dtype)
    numbers = torch.zeros(2, size, dtype=torch.float64)
    numbers[:, places] = torch.stack([given * counts, counts])
    weights, counts = block.team.total(numbers)
    return Drawn(block.team.total(rows), weights, counts)
