"""How far a replacement is from the table it replaces."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.embedding.base import CompressedEmbedding

__all__ = ["TableError", "table_error"]


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
    n, d = table.shape
    lost = torch.zeros(n, dtype=torch.float64)
    energy = torch.zeros(n, dtype=torch.float64)
    for part in blocks(n, 2 * d):
        original = table[part].double()
        rebuilt = module.rows(torch.arange(part.start, part.stop, device=table.device)).double()
        lost[part] = (original - rebuilt).square().sum(1).cpu()
        energy[part] = original.square().sum(1).cpu()
    weights = torch.ones(n, dtype=torch.float64) if row_weights is None else row_weights.double().cpu()
    return TableError(_share(lost.sum(), energy.sum()), _share((weights * lost).sum(), (weights * energy).sum()))


def _share(lost: Tensor, energy: Tensor) -> float:
    return float(lost / energy) if float(energy) > 0 else 0.0
