"""The cheapest subspace of every row, in no more precision than the answer needs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foldflat.axes import CACHED_ELEMENTS, blocks, has_fast_bfloat16
from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.subspace import captured_energy

__all__ = ["assign_rows", "narrow_products_pay", "squared_residuals"]

_NARROW_MULTIPLICATIONS = 1 << 32
_NARROW_LEAST_LOSS = 2.0**-8
_NARROW_MARGIN = 2.0**-8


def assign_rows(
    rows: WeightedRows, bases: Sequence[Tensor], multiplier: float = 0.0, *, narrow: bool = False
) -> tuple[Tensor, Tensor]:
    """Return (m,) labels of the cheapest subspaces and (m,) float64 what each row costs there.

    A row costs weight x squared distance + multiplier x rank x number of equal rows.

    Args:
        rows: m distinct rows.
        bases: k matrices (rank_i, d) with orthonormal rows.
        multiplier: energy that one parameter must save.
        narrow: multiply in bfloat16 first, and again in full precision where the two cheapest subspaces differ by
            less than 2^-8 of the row's energy. A bfloat16 distance was off by up to 1.3e-3 of that energy (standard
            deviation, three tables of 64 to 768 numbers a row), and one row of 76,434 went elsewhere than without.
    """
    ranks = [len(basis) for basis in bases]
    stacked = torch.cat(list(bases))
    rents = multiplier * torch.tensor(ranks, dtype=torch.float64, device=stacked.device)
    short = stacked.bfloat16() if narrow else None
    costs = torch.empty(len(rows), dtype=torch.float64, device=stacked.device)
    labels = torch.empty(len(rows), dtype=torch.int64, device=stacked.device)
    elements = CACHED_ELEMENTS if short is None else 2 * CACHED_ELEMENTS
    for part in blocks(len(rows), max(stacked.shape[0], rows.n_features), elements=elements):
        block, weights = rows.block(part), rows.weights[part, None]
        norms = block.square().sum(1)
        rent = rows.counts[part, None] * rents
        prices = _residuals(block, norms, stacked if short is None else short, ranks).mul_(weights).add_(rent)
        if short is not None:
            near = _nearly_tied(prices, weights[:, 0] * norms)
            exact = _residuals(block[near], norms[near], stacked, ranks)
            prices[near] = exact.mul_(weights[near]).add_(rent[near])
        costs[part], labels[part] = prices.min(1)
    return labels, costs


def squared_residuals(rows: WeightedRows, bases: Sequence[Tensor]) -> Tensor:
    """Return (m, k) float64: the squared distance of every row to every subspace."""
    ranks = [len(basis) for basis in bases]
    stacked = torch.cat(list(bases))
    residuals = torch.empty(len(rows), len(ranks), dtype=torch.float64, device=stacked.device)
    for part in blocks(len(rows), max(stacked.shape[0], rows.n_features), elements=CACHED_ELEMENTS):
        block = rows.block(part)
        residuals[part] = _residuals(block, block.square().sum(1), stacked, ranks)
    return residuals


def narrow_products_pay(rows: WeightedRows, total_rank: int, energy_lost: float) -> bool:
    """Return whether bfloat16 products save time here and are exact enough.

    Args:
        rows: m distinct rows.
        total_rank: sum of the k ranks.
        energy_lost: share of the energy outside the subspaces; below 2^-8 the rounding would show in the cost.
    """
    return (
        rows.dtype == torch.float32
        and energy_lost >= _NARROW_LEAST_LOSS
        and len(rows) * total_rank * rows.n_features >= _NARROW_MULTIPLICATIONS
        and has_fast_bfloat16(rows.table.device)
    )


def _residuals(block: Tensor, norms: Tensor, stacked: Tensor, ranks: list[int]) -> Tensor:
    captured = captured_energy(block.to(stacked.dtype), stacked, ranks)
    return (norms[:, None] - captured).clamp_min_(0).double()


def _nearly_tied(prices: Tensor, energies: Tensor) -> Tensor:
    if prices.shape[1] == 1:
        return torch.empty(0, dtype=torch.int64, device=prices.device)
    best, second = prices.topk(2, dim=1, largest=False).values.unbind(1)
    return torch.nonzero(second - best < _NARROW_MARGIN * energies).squeeze(1)
