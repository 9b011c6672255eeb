"""Tables that need not fit into memory: whatever gives rows by slice and by position."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from foldflat.errors import DataError

__all__ = ["RowSource", "ShardedRows"]


class RowSource(Protocol):
    """Give rows of an (n, d) table on demand; a tensor, in memory or mapped from a file, is one."""

    @property
    def shape(self) -> torch.Size:
        """Return (n, d)."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the floating type of the numbers."""

    @property
    def device(self) -> torch.device:
        """Return where the rows are handed out."""

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Return (b, d): consecutive rows, or those at given positions (b,)."""


class ShardedRows:
    """Join tables (n_i, d) to one of n_1 + n_2 + .. rows without copying them."""

    def __init__(self, shards: Sequence[RowSource], names: Sequence[str] | None = None) -> None:
        """Check that the shards fit together.

        Args:
            shards: tables of one width, type and device, in order.
            names: what to call them in errors.

        Raises:
            DataError: there is none, or one differs from the first in width, type or device.
        """
        if not shards:
            raise DataError("no shard was given; hint: a table needs at least one")
        called = [f"shard {i}" for i in range(len(shards))] if names is None else list(names)
        first = shards[0]
        for name, shard in zip(called, shards, strict=True):
            if (shard.shape[1], shard.dtype, shard.device) != (first.shape[1], first.dtype, first.device):
                raise DataError(
                    f"{name} has rows of {shard.shape[1]} {shard.dtype} on {shard.device}, {called[0]} of "
                    f"{first.shape[1]} {first.dtype} on {first.device}; hint: shards share width and type"
                )
        self._shards = list(shards)
        self._starts = torch.tensor([0, *(shard.shape[0] for shard in shards)]).cumsum(0)
        self.dtype, self.device = first.dtype, first.device

    @property
    def shape(self) -> torch.Size:
        """Return (n, d)."""
        return torch.Size((int(self._starts[-1]), self._shards[0].shape[1]))

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Return (b, d): consecutive rows, or those at given positions (b,)."""
        if isinstance(rows, slice):
            return self._consecutive(*rows.indices(self.shape[0])[:2])
        result = torch.empty(len(rows), self.shape[1], dtype=self.dtype, device=self.device)
        owners = torch.searchsorted(self._starts, rows.cpu(), right=True) - 1
        for i in owners.unique().tolist():
            own = torch.nonzero(owners == i).squeeze(1)
            result[own] = self._shards[i][rows[own] - int(self._starts[i])]
        return result

    def _consecutive(self, start: int, stop: int) -> Tensor:
        parts = [
            shard[max(start - first, 0) : stop - first]
            for shard, first in zip(self._shards, self._starts.tolist(), strict=False)
            if first < stop and first + shard.shape[0] > start
        ]
        return torch.cat(parts) if len(parts) != 1 else parts[0]
