"""Rows split between bases and classes of weight: what trellis-coded tables know before there is a budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.fit import fit_table
from foldflat.cluster.rows import every_row
from foldflat.cluster.subspace import eigenbasis, gram_matrix, members_by_label

__all__ = ["Split", "split_rows", "weight_classes"]

_WEIGHT_CLASSES = 15
_FIT_STEPS = 20


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


def weight_classes(weights: Tensor, padding_idx: int | None) -> Tensor:
    """Return (n,) classes of rows whose weights are alike, the heaviest first; -1 for the padding row."""
    logs = weights.log2()
    spread = float(logs.max() - logs.min())
    step = max(1.0, spread / _WEIGHT_CLASSES)
    classes = ((logs.max() - logs) / step).floor().long()
    if padding_idx is not None:
        classes[padding_idx] = -1
    used, labels = torch.unique(classes, return_inverse=True)
    found: Tensor = labels - int(used[0] < 0)
    return found


def split_rows(table: Tensor, weights: Tensor, by_weight: Tensor, k: int, seed: int) -> Split:
    """Return the rows split between k bases and classes of weight."""
    n, d = table.shape
    device = table.device
    present = by_weight >= 0
    owner = torch.zeros(n, dtype=torch.int64, device=device)
    rows = every_row(table, torch.where(present, weights, 0.0))
    if k > 1:
        owner = fit_table(
            table, rows.weights, n_subspaces=k, rank=max(1, d // 4), seed=seed, max_iter=_FIT_STEPS
        ).labels
    bases = [_even(eigenbasis(gram_matrix(rows, members))[1]) for members in members_by_label(owner, k)]
    n_weights = int(by_weight.max()) + 1
    labels = torch.where(present, owner.cpu() * n_weights + by_weight, k * n_weights)
    used = torch.unique(labels[present])
    numbers = torch.full((k * n_weights + 1,), len(used))
    numbers[used] = torch.arange(len(used))
    labels = numbers[labels]
    owners = [int(label) // n_weights for label in used]
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
