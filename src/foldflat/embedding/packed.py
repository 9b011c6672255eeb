"""What embeddings with integer codes have in common: the class of every row, packed, and rows that are kept exactly."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from foldflat.embedding.base import CompressedEmbedding
from foldflat.embedding.lookup import positions_within
from foldflat.embedding.masters import MasterWeights
from foldflat.embedding.storage import pack, packed_bytes, unpack
from foldflat.errors import RecipeError

__all__ = ["PackedEmbedding", "label_bits", "packed_labels"]


class PackedEmbedding(CompressedEmbedding):
    """Say of every row which class it is of, in as many bits as tell the classes apart, and where in that class.

    A layer holds nothing to train until `unfreeze`, and stores what was trained at `freeze`. Between, rows and logits
    are those of the numbers that freezing would store, rounding and all, and so is the state dict: it has the same
    names, and is what `size_bytes` counts.

    Attributes:
        sizes: rows of each class, the padding row left out.
        labels: packed class of every row; the last marks the padding row.
        fixed: (1, d) the padding row as it was, or (0, d).
        assignment: (n,) int16, the labels unpacked.
        position: (n,) int32, the place of every row among those of its class.
        masters: what is trained in place of stored numbers, None while the layer is frozen.
        has_integers: whether coefficients are integers, which can be trained too.
    """

    has_integers = False
    masters: MasterWeights | None
    codes: Tensor
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
        self.register_module("masters", None)

    def unfreeze(self, *, coefficients: bool = False) -> Self:
        """Make bases and scales parameters, in float32, until `freeze`; return self.

        An optimiser has to be made after it. The padding row and the classes of rows stay as they are.

        Args:
            coefficients: train them too, through a straight-through estimator; they take 4 bytes each meanwhile.

        Raises:
            RecipeError: the coefficients are no integers, or the layer is in training form with other ones.
        """
        if coefficients and not self.has_integers:
            raise RecipeError(
                f"the coefficients of a {type(self).__name__} are codes that cannot be trained\n"
                "hint: leave `coefficients` out; bases and scales are trained"
            )
        if self.masters is not None:
            if coefficients != ("coefficients" in self.trained):
                raise RecipeError(
                    f"`coefficients` is {coefficients}, but this layer trains {self.trained}; hint: freeze()"
                )
            return self
        with torch.no_grad():
            self.masters = self._masters(coefficients)
        self._forget()
        return self

    def freeze(self) -> Self:
        """Store what was trained, in the bytes of before, and hold no parameters any more; return self.

        Raises:
            DataError: training left NaN or infinity.
        """
        self._store()
        return self.discard()

    def discard(self) -> Self:
        """Hold no parameters any more, and forget what was trained since it was last stored; return self."""
        self.masters = None
        self._forget()
        return self

    @property
    def trained(self) -> tuple[str, ...]:
        """Return what is trained: "bases", "scales", "coefficients"; nothing while the layer is frozen."""
        names = [] if self.masters is None else [name.split("_")[0] for name, _ in self.masters.named_parameters()]
        return tuple(dict.fromkeys(names))

    @abstractmethod
    def _masters(self, coefficients: bool) -> MasterWeights:
        """Return what is trained in place of stored numbers."""

    @abstractmethod
    def _pack(self, masters: MasterWeights) -> None:
        """Set the stored numbers, in place, to what was trained."""

    @torch.no_grad()
    def _store(self) -> None:
        if self.masters is not None:
            self.masters.check_finite()
            self._pack(self.masters)

    @property
    def size_bytes(self) -> int:
        """Return every byte that is stored: coefficients, bases, indices, scales; of a layer in training form too."""
        derived = self._non_persistent_buffers_set
        return sum(tensor.nbytes for name, tensor in self.named_buffers(recurse=False) if name not in derived)

    def _save_to_state_dict(self, *args: Any) -> None:
        self._store()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        coefficients, masters = "coefficients" in self.trained, self.masters
        # what is loaded must not be overwritten by what was trained
        self.masters = None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if masters is not None and f"{prefix}bases" in state_dict:
            with torch.no_grad():
                loaded = self._masters(coefficients).tensors()
            for name, tensor in masters.tensors().items():
                tensor.copy_(loaded[name])
        self.masters = masters

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
