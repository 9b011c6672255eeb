"""Groups of subspaces that share a basis: each is spanned by its first directions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.cluster.subspace import eigenbasis

__all__ = ["Group", "layout", "polar", "turned"]

_TURNS = 2
_LEAST_SQUARED_RATIO = 1e-11


@dataclass
class Group:
    """Hold one basis and the ranks of the subspaces in it.

    Attributes:
        directions: (at most d, d) orthonormal rows, the ones worth keeping first.
        ranks: increasing, without repetition; the last is what the basis stores.
    """

    directions: Tensor
    ranks: list[int]

    @property
    def segments(self) -> list[Tensor]:
        """Return the directions that each rank adds to the one before."""
        starts = [0, *self.ranks[:-1]]
        return [self.directions[start:stop] for start, stop in zip(starts, self.ranks, strict=True)]


def layout(groups: Sequence[Group], device: torch.device) -> tuple[list[Tensor], Tensor, list[int]]:
    """Return the segments, (segments, subspaces) which of them make up each subspace, and the group of each."""
    segments = [segment for group in groups for segment in group.segments]
    owners = [g for g, group in enumerate(groups) for _ in group.ranks]
    same = torch.tensor(owners)[:, None] == torch.tensor(owners)
    return segments, same.triu().to(device), owners


def turned(segments: list[Tensor], grams: list[Tensor]) -> list[Tensor]:
    """Return orthonormal segments that capture at least as much, each with its directions of most energy first."""
    sizes = [len(segment) for segment in segments]
    if sum(sizes):
        for _ in range(_TURNS):
            pulled = torch.cat([segment @ gram for segment, gram in zip(segments, grams, strict=True)])
            segments = list(polar(pulled).split(sizes))
    return [_ordered(segment, gram) for segment, gram in zip(segments, grams, strict=True)]


def polar(matrix: Tensor) -> Tensor:
    """Return the matrix (r, d) with orthonormal rows that is nearest to `matrix`."""
    wide = matrix.double()
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    if float(values[0]) > _LEAST_SQUARED_RATIO * float(values[-1]):
        inverse_root: Tensor = (vectors * values.rsqrt()) @ vectors.T
        return (inverse_root @ wide).to(matrix.dtype)
    left, _, right = torch.linalg.svd(wide, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest.to(matrix.dtype)


def _ordered(segment: Tensor, gram: Tensor) -> Tensor:
    return eigenbasis(segment @ gram @ segment.T)[1] @ segment if len(segment) else segment
