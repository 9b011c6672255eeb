"""How far a replacement is from the table it replaces."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.embedding.base import CompressedEmbedding

__all__ = ["TableError", "row_losses", "share_lost", "table_error", "weighted_shares"]


@dataclass(frozen=True)
class TableError:
    """Hold the error of a table B against A.

    Attributes:
        energy_lost: |A - B|_F^2 / |A|_F^2.
        weighted: the same with every row weighted; equal to `energy_lost` without weights.
    """

    energy_lost: float
    weighted: float

    @property
    def relative_error(self) -> float:
        """Return |A - B|_F / |A|_F."""
        return math.sqrt(self.energy_lost)

    @property
    def weighted_relative_error(self) -> float:
        """Return the weighted relative error."""
        return math.sqrt(self.weighted)


@torch.no_grad()
def table_error(table: Tensor, module: CompressedEmbedding, row_weights: Tensor | None = None) -> TableError:
    """Measure the error from the residuals, in float64.

    Args:
        table: (n, d) the original.
        module: its replacement.
        row_weights: (n,) or None.
    """
    return weighted_shares(*row_losses(table, module), row_weights)


@torch.no_grad()
def row_losses(table: Tensor, module: CompressedEmbedding) -> tuple[Tensor, Tensor]:
    """Return (n,) what each row of a table (n, d) loses in its replacement, and (n,) its energy, in float64."""
    n, d = table.shape
    lost = torch.zeros(n, dtype=torch.float64)
    energy = torch.zeros(n, dtype=torch.float64)
    for part in blocks(n, 2 * d):
        original = table[part].double()
        rebuilt = module.rows(torch.arange(part.start, part.stop, device=table.device)).double()
        lost[part] = (original - rebuilt).square().sum(1).cpu()
        energy[part] = original.square().sum(1).cpu()
    return lost, energy


def weighted_shares(
    lost: Tensor, energy: Tensor, row_weights: Tensor | None, *, drawn: tuple[Tensor, Tensor] | None = None
) -> TableError:
    """Return the share of the energy of n rows that is lost, plain and weighted.

    Args:
        lost: (n,) float64 what each row loses; (m,) where only some were measured.
        energy: (n,) float64 of each row.
        row_weights: (n,) or None for one each.
        drawn: (m,) positions of the rows that were measured, and (m,) the number of rows that each stands for; None
            where all were.
    """
    weights = torch.ones(len(energy), dtype=torch.float64) if row_weights is None else row_weights.double().cpu()
    if drawn is None:
        plain, weighted = lost, weights * lost
    else:
        positions, stands_for = drawn
        plain, weighted = stands_for * lost, stands_for * weights[positions] * lost
    return TableError(share_lost(plain.sum(), energy.sum()), share_lost(weighted.sum(), (weights * energy).sum()))


def share_lost(lost: Tensor, energy: Tensor) -> float:
    """Return lost over energy, 0 of nothing."""
    return float(lost / energy) if float(energy) > 0 else 0.0
