"""Which subspaces of a clustering are stored, and the place of every row in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Partition", "occupied", "shared_bases"]


@dataclass(frozen=True)
class Partition:
    """Hold the subspaces that have rows.

    Attributes:
        assignment: (n,) int64 in 0..k, where k stands for the padding row.
        used: k numbers, the subspaces of the clustering that are kept.
        sizes: k numbers of rows.
        groups: k numbers 0, 1, .. of the basis that each uses.
    """

    assignment: Tensor
    used: list[int]
    sizes: list[int]
    groups: list[int]


def occupied(labels: Tensor, n_bases: int, groups: Sequence[int] | None, padding_idx: int | None) -> Partition:
    """Drop subspaces without rows, and number the others anew.

    Args:
        labels: (n,) in 0..n_bases-1; the entry of the padding row is ignored.
        n_bases: subspaces of the clustering.
        groups: the basis of each; None where all differ.
        padding_idx: row that is in no subspace, at least 0.
    """
    codes = labels.clone()
    if padding_idx is not None:
        codes[padding_idx] = n_bases
    sizes = torch.bincount(codes, minlength=n_bases + 1)[:n_bases]
    used = torch.nonzero(sizes).squeeze(1).tolist()
    numbers = list(range(n_bases)) if groups is None else list(groups)
    kept = sorted({numbers[i] for i in used})
    renumbered = torch.full((n_bases + 1,), len(used), device=labels.device)
    renumbered[used] = torch.arange(len(used), device=labels.device)
    return Partition(renumbered[codes], used, [int(sizes[i]) for i in used], [kept.index(numbers[i]) for i in used])


def shared_bases(ranks: Sequence[int], groups: Sequence[int] | None) -> tuple[list[int], list[int]]:
    """Return the basis 0, 1, .. of each subspace, one of its own where `groups` is None, and the rank of each basis."""
    numbers = list(range(len(ranks))) if groups is None else list(groups)
    longest = [0] * (max(numbers, default=-1) + 1)
    for group, rank in zip(numbers, ranks, strict=True):
        longest[group] = max(longest[group], rank)
    return numbers, longest
