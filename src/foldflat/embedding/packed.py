"""What embeddings with integer codes have in common: the class of every row, packed, and rows that are kept exactly."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foldflat.embedding.base import CompressedEmbedding
from foldflat.embedding.lookup import positions_within
from foldflat.embedding.storage import pack, packed_bytes, unpack

__all__ = ["PackedEmbedding", "label_bits", "packed_labels"]


class PackedEmbedding(CompressedEmbedding):
    """Say of every row which class it is of, in as many bits as tell the classes apart, and where in that class.

    Attributes:
        sizes: rows of each class, the padding row left out.
        labels: packed class of every row; the last marks the padding row.
        fixed: (1, d) the padding row as it was, or (0, d).
        assignment: (n,) int16, the labels unpacked.
        position: (n,) int32, the place of every row among those of its class.
    """

    labels: Tensor
    fixed: Tensor
    assignment: Tensor
    position: Tensor

    def __init__(
        self,
        n: int,
        d: int,
        sizes: Sequence[int],
        stored: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
        *,
        padding_idx: int | None,
        dtype: torch.dtype,
        device: torch.device | str | None,
    ) -> None:
        """Make an empty layer.

        Args:
            n, d: shape of the table.
            sizes: rows of each class, the padding row left out.
            stored: shape and type of what else is stored, by name.
            padding_idx: row to keep exactly.
            dtype: type of the returned rows.
        """
        super().__init__(n, d, padding_idx, dtype=dtype, device=device)
        self.sizes = list(sizes)
        kept = 0 if padding_idx is None else 1
        self._n_classes = len(self.sizes) + kept
        label_bytes = packed_bytes(n, label_bits(self._n_classes))
        every = {**stored, "labels": ((label_bytes,), torch.uint8), "fixed": ((kept, d), dtype)}
        for name, (shape, stored_dtype) in every.items():
            self.register_buffer(name, torch.zeros(shape, dtype=stored_dtype, device=device))
        for name, derived in (("assignment", torch.int16), ("position", torch.int32)):
            self.register_buffer(name, torch.zeros(n, dtype=derived, device=device), persistent=False)

    @torch.no_grad()
    def set_labels(self, labels: Tensor) -> None:
        """Set the class (n,) of every row, the number of classes for the padding row."""
        self.labels.copy_(packed_labels(labels, self._n_classes))
        self.rebuild()

    @torch.no_grad()
    def rebuild(self) -> None:
        """Unpack the labels, and renumber the rows within their classes."""
        super().rebuild()
        if self.labels.device.type == "meta":
            return
        n, bits = self.num_embeddings, label_bits(self._n_classes)
        unpacked = unpack(self.labels, bits)[:n] if bits else self.labels.new_zeros(n)
        self.assignment = unpacked.to(torch.int16)
        self.position = positions_within(self.assignment, self.sizes)


def label_bits(n_classes: int) -> int:
    """Return the bits, 0, 1, 2, 4 or 8, that tell up to 256 classes apart."""
    return next(bits for bits in (0, 1, 2, 4, 8) if n_classes <= 1 << bits)


def packed_labels(labels: Tensor, n_classes: int) -> Tensor:
    """Return labels (n,) in 0 .. n_classes - 1 as bytes, the first in the lowest bits; none of one class."""
    bits = label_bits(n_classes)
    return pack(labels, bits) if bits else labels.new_empty(0, dtype=torch.uint8)
