"""Flats of one rank under any loss: subspaces moved off the origin, fitted so that outliers count less."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foldflat.axes import CACHED_ELEMENTS, blocks
from foldflat.cluster.losses import Loss, loss_named, typical_scale
from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.seeding import first_partition
from foldflat.cluster.subspace import BasisStack, eigenbasis, gram_matrix, members_by_label

__all__ = ["FlatSettings", "Flats", "distances_to_flats", "fit_flats"]

_SMALLEST = 1e-10


@dataclass(frozen=True)
class FlatSettings:
    """Say what to fit.

    Attributes:
        n_subspaces: k.
        rank: of every flat.
        affine: whether flats may miss the origin.
        loss, power, scale: see `foldflat.cluster.losses.loss_named`. Without `scale`, an M-estimator starts from the
            flats of least distances (power 1) and takes the `typical_scale` of those.
        init, max_iter, tol: as of the estimator.
    """

    n_subspaces: int
    rank: int
    affine: bool
    loss: str
    power: float
    scale: float | None
    init: str
    max_iter: int
    tol: float


@dataclass
class Flats:
    """Hold k flats and how they were reached.

    Attributes:
        bases: k matrices (rank, d) with orthonormal rows.
        offsets: (k, d) the point of each flat that is closest to the origin.
        labels: (m,) of the distinct rows.
        loss: what distances cost.
        costs: after each step; none exceeds the one before.
        converged: whether the relative change fell below the tolerance.
    """

    bases: list[Tensor]
    offsets: Tensor
    labels: Tensor
    loss: Loss
    costs: list[float]
    converged: bool = False


def fit_flats(rows: WeightedRows, settings: FlatSettings, seeds: Sequence[int]) -> Flats:
    """Fit k flats by turns: every row to the closest flat, every flat to its rows, weighted by the loss's slope.

    Both lower the weighted sum of losses: the first because the loss increases, the second because the loss is
    concave in the squared distance and lies below its tangent.

    Args:
        rows: m distinct rows.
        settings: what to fit.
        seeds: one for each start; the cheapest is returned.

    Source: iteratively reweighted least squares, Holland and Welsch, Communications in Statistics 1977. The losses are
    those of the code of Maalouf et al., ICLR 2021, which refits without weights.
    """
    if settings.loss == "power" or settings.scale is not None:
        starts = [_descended(rows, _squares(rows, settings, seed), settings) for seed in seeds]
        return min(starts, key=lambda flats: flats.costs[-1])
    # one start and one scale for all, which outliers have not spoilt
    start = fit_flats(rows, replace(settings, loss="power", power=1.0), seeds)
    return _descended(rows, start, settings)


def _descended(rows: WeightedRows, flats: Flats, settings: FlatSettings) -> Flats:
    squares = _assign(rows, flats)
    flats.loss = _loss(rows, squares, settings)
    flats.costs = [_cost(rows, flats, squares)]
    for _ in range(settings.max_iter - 1):
        weights = rows.weights * flats.loss.slope(squares)
        weights[_refill(rows, flats, squares, settings.rank)] = 1
        _refit(rows, flats, weights, settings)
        squares = _assign(rows, flats)
        flats.costs.append(_cost(rows, flats, squares))
        before, cost = flats.costs[-2:]
        flats.converged = before - cost <= settings.tol * before
        if flats.converged:
            break
    return flats


def _squares(rows: WeightedRows, settings: FlatSettings, seed: int) -> Flats:
    """Return the flats of least squares of the first partition."""
    k, d = settings.n_subspaces, rows.n_features
    empty = torch.zeros(settings.rank, d, dtype=rows.dtype, device=rows.table.device)
    offsets = torch.zeros(k, d, dtype=rows.dtype, device=rows.table.device)
    flats = Flats([empty] * k, offsets, first_partition(rows, k, settings.init, seed), loss_named("power"), [])
    _refit(rows, flats, rows.weights, settings)
    return flats


def distances_to_flats(block: Tensor, stack: BasisStack, offsets: Tensor) -> Tensor:
    """Return (b, k): the squared distance of every row of `block` (b, d) to every flat.

    Args:
        block: (b, d) rows.
        stack: the k bases.
        offsets: (k, d), each orthogonal to its basis.
    """
    moved = offsets.square().sum(1) - 2 * block @ offsets.T
    return (block.square().sum(1, keepdim=True) + moved - stack.captured_energy(block)).clamp_min_(0)


def _loss(rows: WeightedRows, squares: Tensor, settings: FlatSettings) -> Loss:
    if settings.loss == "power":
        energy = rows.energy() / float(rows.weights.sum())
        return loss_named(
            "power", power=settings.power, smallest=max(_SMALLEST * energy, torch.finfo(torch.float64).tiny)
        )
    scale = settings.scale
    if scale is None:
        # residuals of zero have no scale; any positive one then gives the same fit
        scale = typical_scale(settings.loss, squares.sqrt(), rows.weights) or 1.0
    return loss_named(settings.loss, scale=scale)


def _cost(rows: WeightedRows, flats: Flats, squares: Tensor) -> float:
    return float((rows.weights * flats.loss.value(squares)).sum())


def _assign(rows: WeightedRows, flats: Flats) -> Tensor:
    """Move every row to its closest flat; return (m,) float64 squared distances."""
    stack = BasisStack(flats.bases)
    squares = torch.empty(len(rows), dtype=torch.float64, device=rows.table.device)
    flats.labels = torch.empty(len(rows), dtype=torch.int64, device=rows.table.device)
    for part in blocks(len(rows), max(stack.matrix.shape), elements=CACHED_ELEMENTS):
        squares[part], flats.labels[part] = distances_to_flats(rows.block(part), stack, flats.offsets).double().min(1)
    return squares


def _refit(rows: WeightedRows, flats: Flats, weights: Tensor, settings: FlatSettings) -> None:
    """Fit every flat to its rows by least weighted squares; one whose rows all weigh nothing stays as it is."""
    flats.bases, flats.offsets = list(flats.bases), flats.offsets.clone()
    for i, members in enumerate(members_by_label(flats.labels, len(flats.bases))):
        total = float(weights[members].sum())
        if total <= 0:
            continue
        mean = _mean(rows, members, weights) if settings.affine else None
        basis = eigenbasis(gram_matrix(rows, members, weights, mean))[1][: settings.rank].clone()
        flats.bases[i] = basis
        if mean is not None:
            flats.offsets[i] = mean - basis.T @ (basis @ mean)


def _mean(rows: WeightedRows, members: Tensor, weights: Tensor) -> Tensor:
    total = torch.zeros(rows.n_features, dtype=torch.float64, device=weights.device)
    for part in blocks(len(members), rows.n_features):
        total += weights[members[part]] @ rows.block(members[part]).double()
    return (total / weights[members].sum()).to(rows.dtype)


def _refill(rows: WeightedRows, flats: Flats, squares: Tensor, rank: int) -> Tensor:
    """Give every flat without rows the rows that cost most elsewhere, as many as it fits exactly; return them."""
    costs = rows.weights * flats.loss.value(squares)
    sizes = torch.bincount(flats.labels, minlength=len(flats.bases))
    taken: list[Tensor] = []
    for i in torch.nonzero(sizes == 0).squeeze(1).tolist():
        free = costs * (sizes[flats.labels] > rank)
        worst = free.topk(min(rank, len(free))).indices
        worst = worst[free[worst] > 0]
        flats.labels[worst] = i
        costs[worst] = 0
        sizes = torch.bincount(flats.labels, minlength=len(flats.bases))
        taken.append(worst)
    return torch.cat([*taken, flats.labels[:0]])
