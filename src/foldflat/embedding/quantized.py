"""An embedding whose rows lie in k subspaces, with coefficients and bases stored as integers."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from foldflat.axes import blocks
from foldflat.embedding.base import CompressedHead
from foldflat.embedding.lookup import buckets, columns_of, inverse, no_autocast
from foldflat.embedding.masters import MasterWeights, bounded, straight_through
from foldflat.embedding.packed import PackedEmbedding
from foldflat.embedding.partition import shared_bases
from foldflat.embedding.storage import Int8Rows, integers, pack, packed_bytes

__all__ = ["STEP", "QuantizedSubspaceEmbedding", "QuantizedSubspaceHead"]

_BLOCK_ELEMENTS = 1 << 20

STEP = 1e-3
"""What a step of a coefficient is to optimisers: AdamW at a rate of 1e-4 then crosses it in some tens of updates. The
length that a step of 4 bits has in rows is some hundred times more, and would never be crossed."""


class QuantizedSubspaceEmbedding(PackedEmbedding):
    """Store row a of cluster i as integers u (rank_i) and return u V_i, where V_i carries the size of a step.

    A step belongs to a direction, so it takes no bytes: it is in the scale of that direction's basis vector.

    `unfreeze` makes bases trainable, as vectors of length 1 beside the steps, which stay, and coefficients where asked
    for, in units of which a step is `STEP`: the learning rates of networks move both. Roundings, of coefficients to
    steps and of bases to int8, pass gradients on as they come.

    Source: Maalouf et al., "Deep Learning Meets Projective Clustering", ICLR 2021; the integers are ours.

    Attributes:
        codes: (bytes,) uint8, coefficients of 4 or 8 bits, of the first subspace row by row, then of the second ..;
            subspaces of even rank come before those of odd rank. Two coefficients of 4 bits share a byte.
        bases: int8 (ranks together, d), one basis after the other.
        scales: float32 (ranks together, 1), of the rows of `bases`.
    """

    method = "subspaces"
    has_integers = True
    _codes = ("scales",)
    codes: Tensor
    bases: Tensor
    scales: Tensor

    def __init__(
        self,
        n: int,
        d: int,
        sizes: Sequence[int],
        ranks: Sequence[int],
        *,
        bits: int,
        groups: Sequence[int] | None = None,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        """Make an empty layer of a given layout.

        Args:
            n, d: shape of the table.
            sizes: k numbers of rows, the padding row left out.
            ranks: k ranks.
            bits: 4 or 8, of a coefficient.
            groups: k numbers 0, 1, .. of the basis that each subspace uses; default one of its own.
            padding_idx: row to keep exactly.
            dtype: type of the returned rows.
        """
        basis_of, longest = shared_bases(ranks, groups)
        starts, numbers = _starts(sizes, ranks)
        stored = {
            "codes": ((packed_bytes(numbers, bits),), torch.uint8),
            "bases": ((sum(longest), d), torch.int8),
            "scales": ((sum(longest), 1), torch.float32),
        }
        super().__init__(n, d, sizes, stored, padding_idx=padding_idx, dtype=dtype, device=device)
        self.ranks, self.bits, self.groups = list(ranks), bits, basis_of
        self._starts, self._basis_starts = starts, [0, *accumulate(longest)]

    def rows(self, ids: Tensor) -> Tensor:
        """Return (t, d): the rows at ids (t,), each decoded once however often it is asked for."""
        distinct, places = torch.unique(ids, return_inverse=True)
        subspaces, within = self.assignment.index_select(0, distinct), self.position.index_select(0, distinct)
        order, positions = buckets(subspaces, within, len(self.ranks))
        used = [i for i, chosen in enumerate(positions[:-1]) if len(chosen)]
        bases = {group: self.basis(group) for group in {self.groups[i] for i in used}}
        with no_autocast(ids.device.type):
            parts = [self.read(i, positions[i].long()) @ bases[self.groups[i]][: self.ranks[i]] for i in used]
        # of both types the wider one, so that a padding row in float64 stays as it was
        found = torch.cat([*parts, self.fixed.index_select(0, positions[-1])])
        return found.index_select(0, inverse(order).index_select(0, places)).to(self.anchor.dtype)

    def basis(self, group: int) -> Tensor:
        """Return a basis (rank, d) in float32, each vector as long as a step of its coefficient."""
        part = slice(self._basis_starts[group], self._basis_starts[group + 1])
        if self.masters is None:
            return self.bases[part].float() * self.scales[part]
        codes, scales = self._encoded(self.masters, part)
        trained = self.masters.get_parameter("bases")[part] * self.masters.get_buffer("steps")[part]
        return straight_through(trained, codes.float() * scales)

    def read(self, i: int, positions: Tensor | slice) -> Tensor:
        """Return float32 coefficients (b, rank_i), whole numbers of steps, of rows of subspace i."""
        if self.masters is not None and "coefficients" in self.trained:
            most = 2 ** (self.bits - 1)
            trained = self.masters.get_parameter(f"coefficients_{i}")[positions] / STEP
            levels = bounded(trained, -most, most - 1)
            return straight_through(levels, levels.round())
        start, rank = self._starts[i], self.ranks[i]
        if self.bits * rank % 8 == 0 and self.bits * start % 8 == 0:
            first, width = packed_bytes(start, self.bits), packed_bytes(rank, self.bits)
            codes = self.codes[first : first + self.sizes[i] * width].view(self.sizes[i], width)[positions]
            return integers(codes, self.bits)
        return self._unaligned(start, rank, positions)

    def _unaligned(self, start: int, rank: int, positions: Tensor | slice) -> Tensor:
        """Return coefficients (b, rank) of 4 bits of rows that may begin in the middle of a byte."""
        device = self.codes.device
        if isinstance(positions, slice):
            positions = torch.arange(positions.start, positions.stop, device=device)
        numbers = start + positions[:, None] * rank + torch.arange(rank, device=device)
        codes: Tensor = (self.codes[numbers >> 1] >> (4 * (numbers & 1))) & 15
        return codes.float() - 8

    def _masters(self, coefficients: bool) -> MasterWeights:
        stored = self.bases.float() * self.scales
        lengths = torch.linalg.vector_norm(stored, dim=1, keepdim=True)
        steps = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
        masters = MasterWeights({"bases": stored / steps}, {"steps": steps})
        for i in range(len(self.ranks)) if coefficients else ():
            units = self.read(i, slice(0, self.sizes[i])) * STEP
            masters.register_parameter(f"coefficients_{i}", nn.Parameter(units))
        return masters

    @torch.no_grad()
    def _encoded(self, masters: MasterWeights, part: slice) -> tuple[Tensor, Tensor]:
        """Return codes and scales of trained basis vectors; those that no step moved keep the stored ones."""
        bases, steps = masters.get_parameter("bases")[part], masters.get_buffer("steps")[part]
        codes, scales = Int8Rows().encode(bases * steps)
        kept = (bases == self.bases[part].float() * self.scales[part] / steps).all(1, keepdim=True)
        return torch.where(kept, self.bases[part], codes), torch.where(kept, self.scales[part], scales)

    def _pack(self, masters: MasterWeights) -> None:
        bases, scales = self._encoded(masters, slice(None))
        self.bases.copy_(bases)
        self.scales.copy_(scales)
        if "coefficients" in self.trained:
            self.codes.zero_()
            for i, (size, rank) in enumerate(zip(self.sizes, self.ranks, strict=True)):
                for part in blocks(size, rank, elements=_BLOCK_ELEMENTS):
                    self.write(i, part, self.read(i, part))

    @torch.no_grad()
    def set_basis(self, group: int, basis: Tensor) -> None:
        """Set a basis (rank, d), each vector as long as a step of its coefficient."""
        part = slice(self._basis_starts[group], self._basis_starts[group + 1])
        self.bases[part], self.scales[part] = Int8Rows().encode(basis)

    @torch.no_grad()
    def write(self, i: int, part: slice, values: Tensor) -> None:
        """Set coefficients (b, rank_i), whole numbers of steps, of consecutive rows of subspace i of an empty layer."""
        start = self._starts[i] + part.start * self.ranks[i]
        within = start % (8 // self.bits)
        codes = (values + 2 ** (self.bits - 1)).to(torch.uint8).flatten()
        packed = pack(functional.pad(codes, (within, 0)), self.bits)
        first = packed_bytes(start - within, self.bits)
        # rows before and after may have their part of the first and of the last byte
        self.codes[first : first + len(packed)] |= packed

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (.., n): hidden vectors are taken into each basis, so that no row is multiplied out."""
        wide = hidden.float()
        inner = [wide @ self.basis(group).T for group in range(len(self._basis_starts) - 1)]
        parts = [
            inner[group][..., :rank] @ self.read(i, part).T
            for i, (size, rank, group) in enumerate(zip(self.sizes, self.ranks, self.groups, strict=True))
            for part in blocks(size, rank, elements=_BLOCK_ELEMENTS)
        ]
        parts.append(wide @ self.fixed.float().T)
        columns = columns_of(self.assignment, self.position, self.sizes)
        return torch.cat(parts, -1).index_select(-1, columns).to(hidden.dtype)

    def spec(self) -> dict[str, Any]:
        """Return the layout: shape, sizes, ranks, bits, groups and padding index."""
        return {
            "class": type(self).__name__,
            "n": self.num_embeddings,
            "d": self.embedding_dim,
            "sizes": self.sizes,
            "ranks": self.ranks,
            "bits": self.bits,
            "groups": self.groups,
            "padding_idx": self.padding_idx,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any], *, dtype: torch.dtype, device: torch.device | str | None) -> Self:
        """Return an empty layer of the layout that `spec` describes."""
        layout = {name: value for name, value in spec.items() if name != "class"}
        return cls(**layout, dtype=dtype, device=device)

    @property
    def parameters_stored(self) -> int:
        """Return n_1 r_1 + .. + n_k r_k + (ranks of the bases) d, plus d for the padding row."""
        numbers = sum(size * rank for size, rank in zip(self.sizes, self.ranks, strict=True))
        return numbers + self.bases.numel() + self.fixed.numel()


class QuantizedSubspaceHead(CompressedHead):
    """Give the output layer tied to a `QuantizedSubspaceEmbedding`."""


def _starts(sizes: Sequence[int], ranks: Sequence[int]) -> tuple[list[int], int]:
    """Return the place of each subspace's first coefficient, and the number of all.

    Rows of even rank are whole bytes also at 4 bits, and stay so when nothing odd comes before them.
    """
    starts, numbers = [0] * len(ranks), 0
    for i in sorted(range(len(ranks)), key=lambda i: ranks[i] % 2):
        starts[i] = numbers
        numbers += sizes[i] * ranks[i]
    return starts, numbers
