"""An embedding whose rows lie in k subspaces, and the output layer tied to it."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn

from foldflat.axes import blocks, compute_dtype
from foldflat.cluster.subspace import coefficients as coordinates
from foldflat.embedding.base import CompressedEmbedding, CompressedHead
from foldflat.embedding.lookup import columns_of, in_order, look_up, positions_within
from foldflat.embedding.partition import occupied, shared_bases

__all__ = ["MOST_BYTE_CODES", "SubspaceEmbedding", "SubspaceHead"]

_BLOCK_ELEMENTS = 1 << 18

MOST_BYTE_CODES = 256
"""Subspaces, the padding row counted as one, that one byte a row can tell apart."""


class SubspaceEmbedding(CompressedEmbedding):
    """Store row a of cluster i as coefficients u (rank_i) and return u V_i: k small layers and a recombining one.

    Source: Maalouf et al., "Deep Learning Meets Projective Clustering", ICLR 2021. The partition is fixed;
    coefficients and bases are trained. Subspaces of one group, which are ours, share a basis: each is spanned by its
    first directions.

    Attributes:
        coefficients: k parameters (n_i, rank_i).
        bases: a parameter (rank, d) for each group, of the largest rank in it.
        groups: k numbers, the basis of each subspace.
        assignment: (n,) uint8 (int16 beyond 256 codes), the subspace of each row; k marks the padding row.
        fixed: (1, d) the padding row as it was, or (0, d); gets no gradient.
    """

    method = "subspaces"
    assignment: Tensor
    position: Tensor
    fixed: Tensor

    def __init__(
        self,
        n: int,
        d: int,
        sizes: Sequence[int],
        ranks: Sequence[int],
        *,
        groups: Sequence[int] | None = None,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        factor_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Make an empty layer of a given layout; `from_table` fills one.

        Args:
            n, d: shape of the table.
            sizes: k numbers of rows, the padding row left out.
            ranks: k ranks.
            groups: k numbers 0, 1, .. of the basis that each subspace uses; default one of its own.
            padding_idx: row to keep exactly.
            dtype: type of the returned rows.
            factor_dtype: type of coefficients and bases; default `dtype`.
        """
        super().__init__(n, d, padding_idx, dtype=dtype, device=device)
        stored = dtype if factor_dtype is None else factor_dtype
        self.sizes, self.ranks = list(sizes), list(ranks)
        self.groups, longest = shared_bases(ranks, groups)
        self.coefficients = nn.ParameterList(
            torch.empty(size, rank, dtype=stored, device=device) for size, rank in zip(sizes, ranks, strict=True)
        )
        self.bases = nn.ParameterList(torch.empty(rank, d, dtype=stored, device=device) for rank in longest)
        kept = 0 if padding_idx is None else 1
        code = torch.uint8 if len(ranks) + kept <= MOST_BYTE_CODES else torch.int16
        self.register_buffer("assignment", torch.zeros(n, dtype=code, device=device))
        self.register_buffer("position", torch.zeros(n, dtype=torch.int32, device=device), persistent=False)
        self.register_buffer("fixed", torch.zeros(kept, d, dtype=dtype, device=device))

    @classmethod
    def from_table(
        cls,
        table: Tensor,
        labels: Tensor,
        bases: Sequence[Tensor],
        *,
        groups: Sequence[int] | None = None,
        padding_idx: int | None = None,
        factor_dtype: torch.dtype | None = None,
    ) -> Self:
        """Project every row of a table on the subspace it is assigned to.

        Args:
            table: (n, d).
            labels: (n,) in 0..k-1; the entry of the padding row is ignored.
            bases: k matrices (rank_i, d) with orthonormal rows. Subspaces without rows are dropped.
            groups: k numbers; bases of one number begin alike and are stored once. Default: all differ.
            padding_idx: row to keep exactly.
            factor_dtype: type of coefficients and bases; default the table's.
        """
        n, d = table.shape
        padding_idx = None if padding_idx is None else padding_idx % n
        kept = occupied(labels, len(bases), groups, padding_idx)
        layer = cls(
            n,
            d,
            kept.sizes,
            [len(bases[i]) for i in kept.used],
            groups=kept.groups,
            padding_idx=padding_idx,
            dtype=table.dtype,
            factor_dtype=factor_dtype,
            device=table.device,
        )
        layer.assignment.copy_(kept.assignment)
        layer._fill(table, [bases[i] for i in kept.used])
        layer.rebuild()
        return layer

    @torch.no_grad()
    def _fill(self, table: Tensor, bases: Sequence[Tensor]) -> None:
        dtype = compute_dtype(table.dtype)
        for group, basis in zip(self.groups, bases, strict=True):
            if len(basis) == len(self.bases[group]):
                self.bases[group].copy_(basis)
        for i, own in enumerate(self._own_bases()):
            members = torch.nonzero(self.assignment == i).squeeze(1)
            # what is stored is the rounded basis, so coefficients are taken in that one
            stored = own.to(dtype)
            for part in blocks(len(members), self.embedding_dim):
                self.coefficients[i][part] = coordinates(table[members[part]].to(dtype), stored).to(
                    self.coefficients[i].dtype
                )
        if self.padding_idx is not None:
            self.fixed.copy_(table[self.padding_idx : self.padding_idx + 1])

    def rows(self, ids: Tensor) -> Tensor:
        """Return (t, d): the rows at ids (t,)."""
        subspace = self.assignment.index_select(0, ids).to(torch.int64)
        position = self.position.index_select(0, ids)
        return look_up(subspace, position, list(self.coefficients), self._own_bases(), self.fixed)

    def _own_bases(self) -> list[Tensor]:
        """Return the k matrices (rank_i, d) that span the subspaces."""
        bases = [self.bases[group] for group in self.groups]
        return [basis if len(basis) == rank else basis[:rank] for basis, rank in zip(bases, self.ranks, strict=True)]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (.., n) in small products: n_1 j_1 + .. multiplications, and d x rank for each basis, not n d."""
        flat = hidden.reshape(-1, self.embedding_dim)
        inner = [flat @ basis.to(hidden.dtype).T for basis in self.bases]
        factors = zip(self.coefficients, self.groups, self.ranks, strict=True)
        parts = (part for stored, group, rank in factors for part in _products(inner[group][:, :rank], stored))
        columns = columns_of(self.assignment, self.position, self.sizes)
        found = in_order(chain(parts, [flat @ self.fixed.to(hidden.dtype).T]), columns)
        return found.view(*hidden.shape[:-1], self.num_embeddings)

    @torch.no_grad()
    def rebuild(self) -> None:
        """Renumber the rows within their subspaces, from the assignment."""
        super().rebuild()
        if self.assignment.device.type == "meta":
            return
        self.position = positions_within(self.assignment, self.sizes)

    def spec(self) -> dict[str, Any]:
        """Return the layout: shape, sizes, ranks, groups, padding index and type of the factors."""
        factor = None if self.bases[0].dtype == self.anchor.dtype else str(self.bases[0].dtype).removeprefix("torch.")
        return {
            "class": type(self).__name__,
            "n": self.num_embeddings,
            "d": self.embedding_dim,
            "sizes": self.sizes,
            "ranks": self.ranks,
            "groups": self.groups,
            "padding_idx": self.padding_idx,
            "factor_dtype": factor,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any], *, dtype: torch.dtype, device: torch.device | str | None) -> Self:
        """Return an empty layer of the layout that `spec` describes."""
        factor = None if spec["factor_dtype"] is None else getattr(torch, spec["factor_dtype"])
        return cls(
            spec["n"],
            spec["d"],
            spec["sizes"],
            spec["ranks"],
            groups=spec["groups"],
            padding_idx=spec["padding_idx"],
            dtype=dtype,
            factor_dtype=factor,
            device=device,
        )

    @property
    def parameters_stored(self) -> int:
        """Return n_1 r_1 + .. + n_k r_k + (ranks of the bases) d, plus d for the padding row."""
        return sum(parameter.numel() for parameter in self.parameters()) + self.fixed.numel()


def _products(inner: Tensor, stored: Tensor) -> Iterator[Tensor]:
    """Yield inner (t, rank) times coefficients (n_i, rank) transposed, in blocks that leave the cache only once."""
    elements = stored.numel() if torch.compiler.is_compiling() else _BLOCK_ELEMENTS
    for part in blocks(*stored.shape, elements=elements):
        yield (stored[part].to(inner.dtype) @ inner.T).T


class SubspaceHead(CompressedHead):
    """Give the output layer tied to a `SubspaceEmbedding`: k pairs of small products instead of one with n d."""
