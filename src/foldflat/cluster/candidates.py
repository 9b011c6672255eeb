"""Which bases a row may choose between: found in bfloat16, priced in full precision."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foldflat.axes import CACHED_ELEMENTS, blocks
from foldflat.cluster.assignment import NARROW_MARGIN, narrow_products_pay, price_gaps, squared_residuals
from foldflat.cluster.groups import Group, layout, owners_of, ranks_of
from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.subspace import BasisStack, members_by_label

__all__ = ["assign_nested", "candidate_residuals"]


def assign_nested(rows: WeightedRows, groups: Sequence[Group], multiplier: float) -> Tensor:
    """Return (m,) labels of the cheapest subspaces: weighted squared distance + multiplier x rank x equal rows."""
    residuals = candidate_residuals(rows, groups, multiplier)
    return residuals.addcmul_(rows.counts[:, None], multiplier * ranks_of(groups, residuals.device)).argmin(1)


def candidate_residuals(rows: WeightedRows, groups: Sequence[Group], multiplier: float) -> Tensor:
    """Return (m, k) float64 weighted squared distances, infinite for subspaces of bases that are too dear for a row.

    The ranks of one basis cost nearly the same, so bfloat16 cannot choose between them; between bases it can. A row
    gets distances in full precision to the subspaces of its cheapest basis alone; or to all, where that basis is
    cheaper than the next by less than 2^-8 of the row's energy, or has one rank, which a budget may not allow.

    Args:
        rows: m distinct rows.
        groups: subspaces.
        multiplier: energy that one coefficient must save, for the choice of bases.
    """
    segments, parts = layout(groups, rows.table.device)
    # a row whose only basis has one rank could not pay less where a budget asks for it
    stuck = [i for i, group in enumerate(groups) if len(group.ranks) == 1] if len(ranks_of(groups).unique()) > 1 else []
    total_rank = sum(len(segment) for segment in segments)
    if 2 * len(stuck) > len(groups) or len(groups) == 1 or not narrow_products_pay(rows, total_rank, 1.0):
        residuals = squared_residuals(rows, segments, parts=parts).double()
        return residuals.mul_(rows.weights[:, None])
    nearest = _nearest_basis(rows, groups, multiplier)
    nearest[torch.isin(nearest, torch.tensor(stuck, device=nearest.device))] = len(groups)
    residuals = torch.full((len(rows), parts.shape[1]), torch.inf, dtype=torch.float64, device=rows.table.device)
    first = 0
    for group, members in zip(groups, members_by_label(nearest, len(groups) + 1), strict=False):
        last = first + len(group.ranks)
        own, inner = layout([group], rows.table.device)
        distances = squared_residuals(rows.subset(members), own, parts=inner).double()
        residuals[members, first:last] = distances.mul_(rows.weights[members, None])
        first = last
    torn = torch.nonzero(nearest == len(groups)).squeeze(1)
    distances = squared_residuals(rows.subset(torn), segments, parts=parts).double()
    residuals[torn] = distances.mul_(rows.weights[torn, None])
    return residuals


def _nearest_basis(rows: WeightedRows, groups: Sequence[Group], multiplier: float) -> Tensor:
    """Return (m,) the cheapest basis of each row, the number of bases where two cost nearly the same."""
    segments, parts = layout(groups, rows.table.device)
    device = rows.table.device
    stack, ranks = BasisStack(segments, torch.bfloat16), ranks_of(groups, device).float()
    owner = torch.tensor(owners_of(groups), device=device)
    nearest = torch.empty(len(rows), dtype=torch.int64, device=device)
    for part in blocks(len(rows), max(stack.matrix.shape), elements=2 * CACHED_ELEMENTS):
        block, weights = rows.block(part), rows.weights[part, None].to(rows.dtype)
        energies = weights[:, 0] * block.square().sum(1)
        saved = (stack.captured_energy(block) @ parts.to(rows.dtype)).mul_(weights)
        prices = multiplier * rows.counts[part, None].to(rows.dtype) * ranks - saved
        cheapest = torch.full((len(block), len(groups)), torch.inf, device=device)
        cheapest.scatter_reduce_(1, owner.expand(len(block), -1), prices, "amin")
        torn = price_gaps(cheapest) < NARROW_MARGIN * energies
        nearest[part] = cheapest.argmin(1).masked_fill_(torn, len(groups))
    return nearest
