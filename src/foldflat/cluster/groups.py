"""Groups of subspaces that share a basis: each is spanned by its first directions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.cluster.subspace import eigenbasis

__all__ = [
    "Group",
    "groups_of",
    "layout",
    "longest_bases",
    "owners_of",
    "polar",
    "ranks_of",
    "stored_rank",
    "subspaces_of",
    "turn",
    "turned",
]

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


def ranks_of(groups: Sequence[Group], device: torch.device | None = None) -> Tensor:
    """Return (k,) float64 the rank of each subspace."""
    return torch.tensor([rank for group in groups for rank in group.ranks], dtype=torch.float64, device=device)


def stored_rank(groups: Sequence[Group]) -> int:
    """Return the directions that the bases of all groups store."""
    return sum(group.ranks[-1] for group in groups)


def owners_of(groups: Sequence[Group]) -> list[int]:
    """Return the group of each subspace."""
    return [i for i, group in enumerate(groups) for _ in group.ranks]


def subspaces_of(groups: Sequence[Group]) -> tuple[list[Tensor], list[int]]:
    """Return the k bases (rank_i, d), and the group of each."""
    return [group.directions[:rank] for group in groups for rank in group.ranks], owners_of(groups)


def groups_of(bases: Sequence[Tensor], owners: Sequence[int]) -> list[Group]:
    """Return the groups, in increasing order, of k bases (rank_i, d): what `subspaces_of` took apart."""
    ranks: dict[int, set[int]] = {}
    for owner, basis in zip(owners, bases, strict=True):
        ranks.setdefault(owner, set()).add(len(basis))
    return [Group(basis, sorted(ranks[owner])) for owner, basis in longest_bases(bases, owners).items()]


def longest_bases(bases: Sequence[Tensor], owners: Sequence[int]) -> dict[int, Tensor]:
    """Return by group the longest of its bases, of which the others are beginnings; groups in increasing order."""
    # of equal keys a dict keeps the last value: the longest
    return dict(sorted(zip(owners, bases, strict=True), key=lambda pair: (pair[0], len(pair[1]))))


def layout(groups: Sequence[Group], device: torch.device) -> tuple[list[Tensor], Tensor]:
    """Return the segments, and (segments, subspaces) which of them make up each subspace."""
    segments = [segment for group in groups for segment in group.segments]
    owners = torch.tensor(owners_of(groups))
    return segments, (owners[:, None] == owners).triu().to(device)


def turn(group: Group, grams: Tensor) -> float:
    """Turn a basis towards the energy of the rows of each of its ranks; return the energy captured.

    Args:
        group: changed in place.
        grams: (ranks, d, d) the Gram matrix of the rows of each rank.
    """
    # rows of a higher rank use the lower segments as well
    users = list(grams.flip(0).cumsum(0).flip(0))
    kept = turned(group.segments, users)
    group.directions = torch.cat(kept)
    return sum(float(((part @ gram) * part).double().sum()) for part, gram in zip(kept, users, strict=True))


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
