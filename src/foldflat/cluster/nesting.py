"""Subspaces inside one another: rows of one cluster keep as many of its directions as they are worth.

The subspaces of one group are spanned by the first directions of one basis, so that several ranks cost one basis.
A row of little energy keeps few coefficients and a row of much energy many, in the same directions.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.alternate import Alternation
from foldflat.cluster.assignment import assign_rows, assign_within
from foldflat.cluster.candidates import assign_nested, candidate_residuals
from foldflat.cluster.groups import Group, longest_bases, owners_of, ranks_of, stored_rank, subspaces_of, turn
from foldflat.cluster.levels import best_levels, spending_multiplier
from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.subspace import eigenbasis, gram_matrix, members_by_label

__all__ = ["LEVELS", "PHASES", "nest"]

LEVELS = 8
"""Subspaces that share a basis, at most."""

PHASES = 6
"""Times that ranks are solved, at most."""

_GRID = 32
_STEPS_PER_PHASE = 3
_LEAST_RAISE = 1.01

Array = NDArray[np.float64]


def nest(
    rows: WeightedRows,
    state: Alternation,
    budget: float,
    *,
    basis_price: float,
    levels: int = LEVELS,
    phases: int = PHASES,
    tol: float = 1e-4,
) -> Alternation:
    """Give each basis of an alternation several ranks, under the same budget.

    One step assigns every row to the cheapest (basis, rank) and turns each basis so that the energy it captures
    grows; neither can raise the cost at a fixed multiplier. Ranks and multiplier are solved anew between phases.

    Args:
        rows: m distinct rows.
        state: subspaces of free ranks, fitted to these rows; or nested ones, also of a sample of them.
        budget: parameters n_1 r_1 + .. + basis_price x (longest rank of each basis).
        basis_price: parameters of one direction.
        levels: subspaces to a basis, at most.
        phases: number of times that ranks are solved, at most.
        tol: relative change of the cost between phases at which to stop.

    Returns:
        labels and bases of the subspaces, `groups` naming the basis each is a beginning of.

    Source: ours. The turn of a basis maximises a sum of convex functions over orthonormal rows by its linear bound:
    Journee et al., "Generalized Power Method for Sparse Principal Component Analysis", JMLR 2010, section 3.
    """
    groups, owners = _first_groups(rows, state)
    d = rows.n_features
    grid = np.unique(np.linspace(0, d, min(d, _GRID) + 1).round().astype(int))
    energy = rows.energy()
    nested = replace(state, costs=list(state.costs), phases=list(state.phases))
    phase, previous = max(nested.phases, default=-1) + 1, np.inf
    for _ in range(phases):
        nested.multiplier = _choose_ranks(rows, groups, owners, grid, budget, basis_price, levels)
        for _ in range(_STEPS_PER_PHASE):
            _assign(rows, nested, groups)
            saved, parameters = _refit(rows, nested, groups, basis_price)
            nested.costs.append(energy - saved + nested.multiplier * parameters)
            nested.phases.append(phase)
        owners = torch.tensor(nested.groups, device=owners.device)[nested.labels]
        cost, phase = nested.costs[-1], phase + 1
        nested.converged = abs(previous - cost) <= tol * cost
        if nested.converged:
            break
        previous = cost
    _meet_budget(rows, nested, groups, budget, basis_price)
    _refit(rows, nested, groups, basis_price)
    nested.bases, nested.groups = subspaces_of(groups)
    return _without_unused(nested)


def _first_groups(rows: WeightedRows, state: Alternation) -> tuple[list[Group], Tensor]:
    """Return groups with their directions in order, and the group (m,) of every row."""
    if not state.groups:
        members = members_by_label(state.labels, len(state.bases))
        return [Group(eigenbasis(gram_matrix(rows, chosen))[1], []) for chosen in members], state.labels
    longest = longest_bases(state.bases, state.groups)
    groups = [Group(basis, []) for basis in longest.values()]
    numbers = {group: i for i, group in enumerate(longest)}
    labels = state.labels
    if len(labels) != len(rows):
        labels = assign_rows(rows, state.bases, state.multiplier)[0]
    return groups, torch.tensor([numbers[group] for group in state.groups], device=labels.device)[labels]


def _choose_ranks(
    rows: WeightedRows,
    groups: Sequence[Group],
    owners: Tensor,
    grid: NDArray[np.int64],
    budget: float,
    basis_price: float,
    levels: int,
) -> float:
    """Set the ranks of every group within the budget; return the multiplier."""
    members = members_by_label(owners, len(groups))
    for group, own in zip(groups, members, strict=True):
        if len(group.directions) < rows.n_features:
            group.directions = _completed(group.directions, gram_matrix(rows, own))
    captured = [_captured_on_grid(rows, chosen, group, grid) for chosen, group in zip(members, groups, strict=True)]
    counts = [rows.counts[chosen].cpu().numpy() for chosen in members]
    multiplier = spending_multiplier(captured, counts, grid, budget, basis_price)
    while True:
        pairs = zip(captured, counts, strict=True)
        found = [best_levels(*pair, grid, multiplier, basis_price, levels) for pair in pairs]
        # few ranks to choose from take a little more than all
        spent = sum(numbers for _, numbers in found)
        if spent <= budget:
            break
        multiplier *= max(_LEAST_RAISE, (spent / budget) ** 2)
    for group, (ranks, _) in zip(groups, found, strict=True):
        group.ranks = ranks
    return multiplier


def _captured_on_grid(rows: WeightedRows, members: Tensor, group: Group, grid: NDArray[np.int64]) -> Array:
    """Return (members, grid) the weighted energy that the first directions capture of each row."""
    table = np.zeros((len(members), len(grid)))
    for part in blocks(len(members), 2 * rows.n_features):
        coefficients = rows.block(members[part]) @ group.directions.T
        sums = coefficients.square_().cumsum(1).double().mul_(rows.weights[members[part], None])
        table[part, 1:] = sums[:, grid[1:] - 1].cpu().numpy()
    return table


def _assign(rows: WeightedRows, nested: Alternation, groups: Sequence[Group]) -> None:
    nested.groups = owners_of(groups)
    nested.labels = assign_nested(rows, groups, nested.multiplier)


def _refit(rows: WeightedRows, nested: Alternation, groups: Sequence[Group], basis_price: float) -> tuple[float, float]:
    """Turn every basis towards the energy of the rows that use its directions; return energy captured, parameters."""
    members = members_by_label(nested.labels, len(nested.groups))
    saved, parameters, first = 0.0, 0.0, 0
    for group in groups:
        own = members[first : first + len(group.ranks)]
        first += len(group.ranks)
        grams = [gram_matrix(rows, chosen) for chosen in own]
        saved += turn(group, torch.stack(grams))
        parameters += sum(
            rank * float(rows.counts[chosen].sum()) for rank, chosen in zip(group.ranks, own, strict=True)
        )
        parameters += basis_price * group.ranks[-1]
    return saved, parameters


def _completed(kept: Tensor, gram: Tensor) -> Tensor:
    """Return (d, d) directions: those kept, then the others by the energy they hold."""
    outside = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) - kept.T @ kept
    _, others = eigenbasis(outside @ gram @ outside)
    both = torch.cat([kept, others[: len(gram) - len(kept)]])
    # the signs of a QR decomposition are arbitrary, those of the directions are not
    q, r = torch.linalg.qr(both.T)
    directions: Tensor = (q * torch.where(r.diagonal() < 0, -1, 1)).T.contiguous()
    return directions


def _meet_budget(
    rows: WeightedRows, nested: Alternation, groups: Sequence[Group], budget: float, basis_price: float
) -> None:
    """Assign every row with the smallest multiplier at which the budget holds."""
    residuals = candidate_residuals(rows, groups, nested.multiplier)
    ranks = ranks_of(groups, residuals.device)
    left = budget - basis_price * stored_rank(groups)
    nested.labels, nested.multiplier = assign_within(rows, residuals, ranks, left, nested.multiplier)


def _without_unused(nested: Alternation) -> Alternation:
    used, labels = torch.unique(nested.labels, return_inverse=True)
    kept = used.tolist()
    nested.labels = labels
    nested.bases = [nested.bases[i] for i in kept]
    nested.groups = [nested.groups[i] for i in kept]
    return nested
