"""Rows split between bases and classes of weight: what trellis-coded tables know before there is a budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.fit import fit_table
from foldflat.cluster.rows import every_row
from foldflat.cluster.subspace import eigenbasis, gram_matrix, members_by_label

__all__ = ["MOST_CLASSES", "Split", "row_classes", "split_rows"]

_WEIGHT_CLASSES = 15
_ENERGY_CLASSES = 4
_USUAL = 0.999
"""Share of the rows that have no more energy than the first class of those."""

_LABEL_BITS = 2
"""What it takes to say which of four classes a row is of."""

_ROWS_FOR_ENERGY = 16
_LEAST_ROWS = 64
"""Scales of a class take as many bytes as a few dozen rows."""

_FIT_STEPS = 20
MOST_CLASSES = 255
"""As many as a byte tells apart, and the padding row."""


@dataclass(frozen=True)
class Split:
    """Hold what is known of the rows of k subspaces before there is a budget.

    Attributes:
        labels: (n,) class of each row; the padding row's is the last.
        bases: matrices (rank, d) with orthonormal rows, or a row of zeros at the end.
        owners: the basis of each class.
        moments: (rank,) mean squares of the coefficients of each class.
        sizes: rows of each class.
        means: mean weight of each class.
    """

    labels: Tensor
    bases: list[Tensor]
    owners: list[int]
    moments: list[np.ndarray]
    sizes: list[int]
    means: list[float]


def row_classes(table: Tensor, weights: Tensor, padding_idx: int | None) -> Tensor:
    """Return (n,) classes of rows alike in weight, the heaviest first, and in energy; -1 for the padding row.

    Rows of much more energy than others would need values beyond those of the code, and deserve more bits.
    """
    classes = _weight_classes(weights) * (_ENERGY_CLASSES + 1) + _energy_classes(table, padding_idx)
    classes = _without_small(classes, padding_idx)
    if padding_idx is not None:
        classes[padding_idx] = -1
    used, labels = torch.unique(classes, return_inverse=True)
    found: Tensor = labels - int(used[0] < 0)
    return found


def _weight_classes(weights: Tensor) -> Tensor:
    logs = weights.log2()
    spread = float(logs.max() - logs.min())
    step = max(1.0, spread / _WEIGHT_CLASSES)
    return ((logs.max() - logs) / step).floor().long()


def _energy_classes(table: Tensor, padding_idx: int | None) -> Tensor:
    """Return 0 for the few rows of most energy, then a number for each half of it, up to four."""
    n, d = table.shape
    logs = torch.cat([table[part].double().square().mean(1).cpu() for part in blocks(n, d)]).log2()
    present = torch.ones(n, dtype=torch.bool)
    if padding_idx is not None:
        present[padding_idx] = False
    present &= logs.isfinite()
    ordered = logs[present].sort().values
    # rows as long as their mean takes this many bits more than rows as long as they are
    saved = d / 2 * float(ordered.exp2().mean().log2() - ordered.mean()) if len(ordered) else 0.0
    if n < _ROWS_FOR_ENERGY * d or saved < _LABEL_BITS:
        return torch.zeros(n, dtype=torch.int64)
    usual = ordered[int(_USUAL * (len(ordered) - 1))]
    return (usual - logs).floor().clamp(-1, _ENERGY_CLASSES - 1).nan_to_num(_ENERGY_CLASSES - 1).long() + 1


def _without_small(classes: Tensor, padding_idx: int | None) -> Tensor:
    """Return the classes with those of few rows joined to the next of the same weight, or to the one before."""
    counted = classes if padding_idx is None else classes[torch.arange(len(classes)) != padding_idx]
    numbers, sizes = torch.unique(counted, return_counts=True)
    rows = dict(zip(numbers.tolist(), sizes.tolist(), strict=True))
    joined: dict[int, int] = {}
    for _, of_weight in groupby(rows, key=lambda number: number // (_ENERGY_CLASSES + 1)):
        groups: list[list[int]] = []
        for number in of_weight:
            if groups and _count(rows, groups[-1]) < _LEAST_ROWS:
                groups[-1].append(number)
            else:
                groups.append([number])
        if len(groups) > 1 and _count(rows, groups[-1]) < _LEAST_ROWS:
            last = groups.pop()
            groups[-1] += last
        joined |= {number: group[0] for group in groups for number in group}
    places = torch.tensor([joined.get(number, number) for number in range(int(classes.max()) + 1)])
    return places[classes]


def _count(rows: dict[int, int], group: list[int]) -> int:
    return sum(rows[number] for number in group)


def split_rows(table: Tensor, weights: Tensor, alike: Tensor, k: int, seed: int) -> Split:
    """Return the rows split between k bases and classes `alike` in weight and energy."""
    n, d = table.shape
    device = table.device
    present = alike >= 0
    owner = torch.zeros(n, dtype=torch.int64, device=device)
    rows = every_row(table, torch.where(present, weights, 0.0))
    if k > 1:
        owner = fit_table(
            table, rows.weights, n_subspaces=k, rank=max(1, d // 4), seed=seed, max_iter=_FIT_STEPS
        ).labels
    bases = [_even(eigenbasis(gram_matrix(rows, members))[1]) for members in members_by_label(owner, k)]
    n_classes = int(alike.max()) + 1
    labels = torch.where(present, owner.cpu() * n_classes + alike, k * n_classes)
    used = torch.unique(labels[present])
    numbers = torch.full((k * n_classes + 1,), len(used))
    numbers[used] = torch.arange(len(used))
    labels = numbers[labels]
    owners = [int(label) // n_classes for label in used]
    moments = _moments(table, labels, bases, owners)
    sizes = torch.bincount(labels, minlength=len(used))[: len(used)].tolist()
    means = [float(weights[labels == i].mean()) for i in range(len(used))]
    return Split(labels, bases, owners, moments, sizes, means)


def _even(basis: Tensor) -> Tensor:
    """Return the basis with a row of zeros at the end where it has an odd number of rows."""
    return basis if len(basis) % 2 == 0 else torch.cat([basis, torch.zeros_like(basis[:1])])


def _moments(table: Tensor, labels: Tensor, bases: Sequence[Tensor], owners: Sequence[int]) -> list[np.ndarray]:
    """Return for each class the mean squares of its rows' coefficients in their basis."""
    found = []
    for i, owner in enumerate(owners):
        members = torch.nonzero(labels == i).squeeze(1).to(table.device)
        total = torch.zeros(len(bases[owner]), dtype=torch.float64, device=table.device)
        for part in blocks(len(members), table.shape[1]):
            chosen = table[members[part]].to(bases[owner].dtype)
            total += (chosen @ bases[owner].T).square().sum(0, dtype=torch.float64)
        found.append((total / len(members)).cpu().numpy())
    return found
