"""Subspaces found on a sample, carried to all rows of a table in few passes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from foldflat.cluster.groups import Group, ranks_of, stored_rank, turn
from foldflat.cluster.subspace import eigenbasis
from foldflat.cluster.sweep import Block, Choices, Totals, assign_and_total, choices, priced, totals_of
from foldflat.errors import BudgetError

__all__ = ["Refinement", "refine"]

_THINNED_ROWS = 32768
_THINNED_LADDERS = ((1.3, 16), (1.02, 16), (1.0015, 16))
_LADDER = (1.00002, 512)
_LEAST_MULTIPLIER = 1e-12
_SMALLEST, _LARGEST = 1e-300, 1e300


@dataclass
class Refinement:
    """Hold what passes over all rows have reached.

    Attributes:
        groups: bases and the ranks in each; ranks stay as they are.
        multiplier: energy that one coefficient must save.
        costs: after each pass, weighted squared distances + multiplier x parameters; none is above the one before.
        passes: passes done, those of the final assignment left out.
        converged: whether the relative change fell below the tolerance.
    """

    groups: list[Group]
    multiplier: float
    costs: list[float] = field(default_factory=list)
    passes: int = 0
    converged: bool = False


def refine(
    block: Block,
    state: Refinement,
    budget: float,
    *,
    basis_price: float,
    max_passes: int,
    tol: float,
    store: Callable[[Refinement], None] | None = None,
) -> Tensor:
    """Alternate on all rows at one multiplier, then assign them within the budget; return int16 labels (n,).

    `state` is moved on in place, and given to `store` after each pass: continued from what was stored last, a run
    ends with the same bits.

    Args:
        block: the rows of this rank.
        state: where to begin.
        budget: parameters n_1 r_1 + .. + basis_price x (longest rank of each basis) of the whole table.
        basis_price: parameters of one direction.
        max_passes: passes to make at most before the final assignment.
        tol: relative change of the cost at which to stop earlier.
        store: called after each pass.
    """
    while state.passes < max_passes and not state.converged:
        before = state.costs[-1] if state.costs else float("inf")
        state.costs.append(_pass(block, state, basis_price))
        state.passes += 1
        state.converged = before - state.costs[-1] <= tol * before < float("inf")
        if store is not None:
            store(state)
    left = budget - stored_rank(state.groups) * basis_price
    labels, state.multiplier = _labels_within(block, state.groups, state.multiplier, left)
    _refit(block, state.groups, totals_of(block, labels, sum(len(group.ranks) for group in state.groups)))
    return labels


def _pass(block: Block, state: Refinement, basis_price: float) -> float:
    # a function of its own, so that the Gram matrices are gone before the next pass makes others
    totals = assign_and_total(block, state.groups, state.multiplier)
    lost = _refit(block, state.groups, totals)
    return lost + state.multiplier * _parameters(state.groups, totals, basis_price)


def _refit(block: Block, groups: Sequence[Group], totals: Totals) -> float:
    """Turn every basis to the energy of its rows, each rank some of them; return the energy lost."""
    device, dtype = totals.grams.device, totals.grams.dtype
    sizes = [len(group.ranks) for group in groups]
    captured = torch.zeros(1, dtype=torch.float64)
    directions = [torch.zeros(group.ranks[-1], block.rows.shape[1], dtype=dtype, device=device) for group in groups]
    for i, (group, grams) in enumerate(zip(groups, totals.grams.split(sizes), strict=True)):
        if i % block.team.size == block.team.rank:
            captured += _fit(group, grams)
            directions[i] = group.directions
    flat = block.team.total(torch.cat(directions))
    for group, turned_directions in zip(groups, flat.split([len(part) for part in directions]), strict=True):
        group.directions = turned_directions
    return totals.energy - float(block.team.total(captured))


def _fit(group: Group, grams: Tensor) -> float:
    """Turn the basis of a group, at once to its best where it has one rank; return the energy captured."""
    if len(group.ranks) > 1:
        return turn(group, grams)
    if not grams.any():
        return 0.0
    values, vectors = eigenbasis(grams[0])
    group.directions = vectors[: group.ranks[0]]
    return float(values[: group.ranks[0]].double().sum())


def _parameters(groups: Sequence[Group], totals: Totals, basis_price: float) -> float:
    return float(ranks_of(groups) @ totals.counts.cpu()) + stored_rank(groups) * basis_price


def _labels_within(block: Block, groups: Sequence[Group], multiplier: float, numbers: float) -> tuple[Tensor, float]:
    """Return labels that take a number of coefficients at most, and their multiplier: 2e-5 above the smallest, at most.

    Rows choose between the bases that are candidates at the multiplier given.
    """

    def chosen(distances: Iterable[Tensor], multipliers: Sequence[float]) -> Choices:
        return choices(distances, groups, multipliers, block.team)

    def of_all() -> Iterator[Tensor]:
        return priced(block, groups, near)

    near = multiplier
    if len(ranks_of(groups).unique()) == 1:
        return chosen(of_all(), [near]).labels_at(0), near
    thin, share = _thinned(block)
    few = list(priced(thin, groups, near))
    energy = sum((chunk.energy() for _, chunk in thin.chunks()), 0.0)
    energy = float(block.team.total(torch.tensor(energy, dtype=torch.float64)))
    multiplier = max(multiplier, _LEAST_MULTIPLIER * energy, torch.finfo(torch.float64).tiny)
    if chosen(few, [0.0]).numbers[0] <= numbers * share:
        free = chosen(of_all(), [0.0])
        if free.numbers[0] <= numbers:
            return free.labels_at(0), 0.0
    for ratio, rungs in _THINNED_LADDERS:
        found, rung = _climb(partial(chosen, few), multiplier, numbers * share, ratio, rungs)
        multiplier = found.multipliers[rung]
    found, rung = _climb(lambda multipliers: chosen(of_all(), multipliers), multiplier, numbers, *_LADDER)
    return found.labels_at(rung), found.multipliers[rung]


def _climb(
    choose: Callable[[Sequence[float]], Choices], multiplier: float, numbers: float, ratio: float, reach: int
) -> tuple[Choices, int]:
    """Return choices and the place among them of the smallest multiplier that keeps to the numbers.

    It may be too large by a factor of at most `ratio`. One pass tries `reach` multipliers to both sides.
    """
    low, high, jump = 0.0, math.inf, 1
    while high > low * ratio:
        found = choose([multiplier * ratio**i for i in range(-reach, reach + 1)])
        fitting = [spent <= numbers for spent in found.numbers]
        if any(fitting) and not fitting[0]:
            return found, fitting.index(True)
        low, high = (low, found.multipliers[0]) if fitting[0] else (found.multipliers[-1], high)
        jump *= 2
        if low and high < math.inf:
            multiplier = math.sqrt(low * high)
        else:
            multiplier = low * ratio ** (reach * jump) if low else high / ratio ** (reach * jump)
        if not _SMALLEST < multiplier < _LARGEST:
            break
    if high < math.inf:
        return choose([high]), 0
    raise BudgetError(f"{numbers:.0f} coefficients are too few for the ranks found on a sample; hint: raise the budget")


def _thinned(block: Block) -> tuple[Block, float]:
    """Return every s-th row of the table, 32,768 in all, however many ranks hold it, and which part they are."""
    sizes = torch.tensor([float(len(block)), 0.0], dtype=torch.float64)
    stride = max(1, -(-int(block.team.total(sizes.clone())[0]) // _THINNED_ROWS))
    chosen = torch.arange(min(-block.first % stride, len(block)), len(block), stride)
    weights = None if block.weights is None else block.weights[chosen.to(block.weights.device)]
    sizes[1] = len(chosen)
    whole, part = block.team.total(sizes).tolist()
    return Block(block.rows[chosen.to(block.rows.device)], weights, block.team), part / whole
