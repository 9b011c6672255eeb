"""Embeddings stored as small integers: the rivals that subspaces are measured against."""

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from foldflat.axes import blocks
from foldflat.embedding.base import CompressedEmbedding, CompressedHead
from foldflat.embedding.storage import FORMATS

__all__ = ["QuantizedEmbedding", "QuantizedHead"]

_BLOCK_ELEMENTS = 1 << 18


class QuantizedEmbedding(CompressedEmbedding):
    """Store rows in one of `foldflat.embedding.storage.FORMATS` and decode those that are looked up.

    Codes and scales are fixed: fine-tuning trains the rest of the network around them.

    Attributes:
        codes, scales: see the format's `layout`.
    """

    codes: Tensor
    scales: Tensor
    _codes = ("scales",)

    def __init__(
        self,
        n: int,
        d: int,
        row_format: str,
        *,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n, d, padding_idx, dtype=dtype, device=device)
        self.method = row_format
        self.format = FORMATS[row_format]()
        for name, (shape, stored) in self.format.layout(n, d).items():
            self.register_buffer(name, torch.zeros(shape, dtype=stored, device=device))

    @classmethod
    def from_table(cls, table: Tensor, row_format: str, *, padding_idx: int | None = None) -> Self:
        """Encode every row of a table (n, d)."""
        n, d = table.shape
        layer = cls(n, d, row_format, padding_idx=padding_idx, dtype=table.dtype, device=table.device)
        for part in blocks(n, 4 * d):
            layer.codes[part], layer.scales[part] = layer.format.encode(table[part])
        return layer

    def rows(self, ids: Tensor) -> Tensor:
        """Return (t, d): the rows at ids (t,), decoded."""
        found = torch.empty(len(ids), self.embedding_dim, dtype=self.anchor.dtype, device=ids.device)
        for part in self._blocks(len(ids)):
            codes, scales = self.codes.index_select(0, ids[part]), self.scales.index_select(0, ids[part])
            found[part] = self.format.decode(codes, scales, self.embedding_dim)
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (.., n), decoding a block of rows at a time."""
        parts = []
        for part in self._blocks(self.num_embeddings):
            table = self.format.decode(self.codes[part], self.scales[part], self.embedding_dim)
            parts.append(functional.linear(hidden, table.to(hidden.dtype)))
        return torch.cat(parts, -1)

    def _blocks(self, length: int) -> Iterator[slice]:
        """Yield rows whose numbers stay in the cache between the passes of decoding; all of them in a graph."""
        elements = length * self.embedding_dim if torch.compiler.is_compiling() else _BLOCK_ELEMENTS
        return blocks(length, self.embedding_dim, elements=elements)

    def spec(self) -> dict[str, Any]:
        """Return the layout: shape, format, padding index."""
        return {
            "class": type(self).__name__,
            "n": self.num_embeddings,
            "d": self.embedding_dim,
            "format": self.format.name,
            "padding_idx": self.padding_idx,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any], *, dtype: torch.dtype, device: torch.device | str | None) -> Self:
        """Return an empty layer of the layout that `spec` describes."""
        return cls(spec["n"], spec["d"], spec["format"], padding_idx=spec["padding_idx"], dtype=dtype, device=device)

    @property
    def parameters_stored(self) -> int:
        """Return n d: quantising keeps every number, in fewer bits."""
        return self.num_embeddings * self.embedding_dim


class QuantizedHead(CompressedHead):
    """Give the output layer tied to a `QuantizedEmbedding`."""
