"""What every replacement of an embedding has in common."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from foldflat.axes import blocks
from foldflat.cluster.source import RowSource
from foldflat.embedding.caching import RowCache
from foldflat.errors import DataError, DenseWeightError

__all__ = ["CompressedEmbedding", "CompressedHead", "check_finite", "titled"]


class CompressedEmbedding(nn.Module):
    """Look up rows of an (n, d) table that is not stored as such.

    Attributes:
        num_embeddings: n.
        embedding_dim: d.
        padding_idx: row that gets no gradient, or None; as in nn.Embedding.
    """

    method: str
    anchor: Tensor
    _codes: tuple[str, ...] = ()
    """Buffers of floats that are part of the code: a change of type is about the rows that are returned."""

    def __init__(
        self,
        n: int,
        d: int,
        padding_idx: int | None,
        *,
        dtype: torch.dtype,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = n
        self.embedding_dim = d
        self.padding_idx = padding_idx
        self._cache: RowCache | None = None
        # follows .to(..) and .half(): the type that rows are returned in
        self.register_buffer("anchor", torch.empty(0, dtype=dtype, device=device), persistent=False)

    @abstractmethod
    def rows(self, ids: Tensor) -> Tensor:
        """Return (t, d): the rows at ids (t,)."""

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Return (.., n): products of hidden vectors (.., d) with every row, without the dense table."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return what an empty module of the same layout is built from, JSON-serialisable."""

    @property
    @abstractmethod
    def parameters_stored(self) -> int:
        """Return the numbers stored, counted as the papers do: no index, no scales."""

    def rebuild(self) -> None:
        """Recompute buffers that follow from stored ones; needed after the stored ones were replaced."""
        self._forget()
        # a layer made on the meta device is filled by assigning tensors, which leaves this one where it was
        device = next(iter(self.state_dict().values())).device
        self.anchor = torch.empty(0, dtype=self.anchor.dtype, device=device)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (.., d) rows for integer ids (..), each in 0..n-1.

        Raises:
            IndexError: an id is out of range (on CPU; on CUDA a device assertion, as with nn.Embedding).
        """
        flat = ids.reshape(-1)
        if self._cache is None or torch.compiler.is_compiling():
            rows = self.rows(flat)
        elif self._is_trainable():
            # some optimisers change numbers without a trace
            self._forget()
            rows = self.rows(flat)
        else:
            rows = self._cache.look_up(flat, self.rows, list(self.buffers()))
        return rows.view(*ids.shape, self.embedding_dim)

    def cache_rows(self, capacity: int | None = 16_384) -> Self:
        """Keep the first rows that are asked for as they are, so that frequent ones are decoded once; return self.

        The rows take capacity x d numbers of memory, nothing on disk. They are left out in graphs of torch.compile and
        while parameters of the layer require gradients (`requires_grad_(False)` for subspaces that are not trained any
        more), and forgotten when the layer changes, but by writing to `.data`.

        Args:
            capacity: rows to keep at most; None to keep none.

        Raises:
            ValueError: the capacity is not positive.
        """
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity is {capacity}, the least is 1\nhint: None keeps no rows")
        self._cache = None if capacity is None else RowCache(self.num_embeddings, min(capacity, self.num_embeddings))
        return self

    def _forget(self) -> None:
        if self._cache is not None:
            self._cache.clear()

    def _is_trainable(self) -> bool:
        return any(part.requires_grad for part in self.parameters())

    def _is_training(self) -> bool:
        return torch.is_grad_enabled() and self._is_trainable()

    def to_dense(self) -> Tensor:
        """Return the reconstructed table (n, d)."""
        device = self.anchor.device
        dense = torch.empty(self.num_embeddings, self.embedding_dim, dtype=self.anchor.dtype, device=device)
        with torch.no_grad():
            for part in blocks(self.num_embeddings, self.embedding_dim):
                dense[part] = self.rows(torch.arange(part.start, part.stop, device=device))
        return dense

    def to_embedding(self) -> nn.Embedding:
        """Return an nn.Embedding of the reconstructed table, with the same padding index."""
        dense = self.to_dense()
        embedding: nn.Embedding = nn.Embedding.from_pretrained(
            dense, freeze=not self._is_trainable(), padding_idx=self.padding_idx
        )
        return embedding

    @property
    def size_bytes(self) -> int:
        """Return every byte that is stored: coefficients, bases, indices, scales."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state_dict().values())

    def extra_repr(self) -> str:
        """Return shape and bytes."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}, {self.size_bytes} bytes"

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise _no_dense_weight(type(self).__name__)
        return super().__getattr__(name)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._forget()
        codes = {name: getattr(self, name) for name in self._codes}
        kept = {name: tensor for name, tensor in codes.items() if tensor.is_floating_point()}
        self._buffers.update(dict.fromkeys(kept))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in kept.items():
            bits = torch.int16 if tensor.element_size() == 2 else torch.int32
            self._buffers[name] = fn(tensor.view(bits)).view(tensor.dtype)
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.rebuild()


class CompressedHead(nn.Module):
    """Multiply by the table of a `CompressedEmbedding` and add the head's own bias: a tied output layer.

    The embedding is referred to, not owned: its parameters appear once, under the embedding.
    """

    def __init__(self, embedding: CompressedEmbedding, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self._tied = (embedding,)
        self.in_features = embedding.embedding_dim
        self.out_features = embedding.num_embeddings
        self.register_parameter("bias", bias)

    @property
    def embedding(self) -> CompressedEmbedding:
        """Return the embedding whose table this head shares."""
        return self._tied[0]

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits (.., n) of hidden vectors (.., d)."""
        logits = self.embedding.logits(hidden)
        return logits if self.bias is None else logits + self.bias

    def to_linear(self, weight: Tensor) -> nn.Linear:
        """Return an nn.Linear that shares `weight` (n, d) and keeps this head's bias."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = weight
        if self.bias is not None:
            linear.bias = self.bias
        return linear

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise _no_dense_weight(type(self).__name__)
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        """Return the shape."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def titled(name: str) -> str:
    """Return what messages call a table; one that is given bare has no name."""
    return f"table `{name}`" if name else "the table"


def check_finite(table: RowSource, name: str, *, first: int = 0, n: int | None = None) -> None:
    """Raise DataError naming the table and the first row where a number is not finite.

    Of a part of a table, `first` is the position of its first row among n.
    """
    if table.device.type == "meta":
        raise DataError(f"{titled(name)} is on the meta device, without weights; hint: load them first")
    for part in blocks(table.shape[0], table.shape[1]):
        rows = table[part]
        finite = torch.isfinite(rows)
        if not bool(finite.all()):
            row = int(torch.nonzero(~finite)[0, 0])
            value = rows[row][~finite[row]][0].item()
            raise DataError(
                f"{titled(name)} has {value} in row {first + part.start + row} of {n or table.shape[0]}; "
                "weights must be finite\n"
                "hint: the training run that wrote it diverged, or the file is damaged; use an earlier checkpoint"
            )


def _no_dense_weight(kind: str) -> DenseWeightError:
    return DenseWeightError(
        f"a {kind} stores no dense `weight`, so it can neither be read, resized nor tied\n"
        "hint: `to_dense()` returns the reconstructed table; to resize, take `result.to_dense()`, resize that "
        "model and compress again"
    )
