"""Rows that are kept as they come out of a compressed table, so that frequent ones are decoded once."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["RowCache"]

_NONE = -1


class RowCache:
    """Keep the first rows that are asked for: with text those are the frequent ones.

    Nothing leaves the cache but all of it, as soon as what it was decoded from has changed. It is neither stored nor
    copied with the layer.

    Args:
        n: rows of the table.
        capacity: rows to keep at most.
    """

    def __init__(self, n: int, capacity: int) -> None:
        self._n, self._capacity = n, capacity
        self._lock = threading.RLock()
        self.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"n": self._n, "capacity": self._capacity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def clear(self) -> None:
        """Forget all rows."""
        with self._lock:
            self._used, self._version = 0, 0
            self._slots = self._rows = torch.empty(0)

    def look_up(self, ids: Tensor, decode: Callable[[Tensor], Tensor], sources: Sequence[Tensor]) -> Tensor:
        """Return rows (t, d) of ids (t,).

        Args:
            ids: of the rows.
            decode: returns the rows of some ids.
            sources: what they are decoded from.
        """
        # inference tensors change without a trace
        if not len(ids) or any(part.is_inference() for part in sources):
            return decode(ids)
        # two threads must not fill one slot
        with self._lock:
            version = sum(part._version for part in sources)
            if not self._used or version != self._version:
                self._start(ids.device, version)
            slots = self._slots.index_select(0, ids)
            missing = torch.nonzero(slots == _NONE).squeeze(1)
            if not len(missing):
                return self._rows.index_select(0, slots)
            distinct, places = torch.unique(ids.index_select(0, missing), return_inverse=True)
            decoded = decode(distinct)
            self._keep(distinct, decoded)
            # one gather of all is faster than one of those that are there
            found = self._rows.index_select(0, slots.clamp_min_(0))
            return found.index_copy_(0, missing, decoded.index_select(0, places))

    def _start(self, device: torch.device, version: int) -> None:
        self.clear()
        self._version = version
        # what is made in inference mode could not be changed outside of it
        with torch.inference_mode(False):
            self._slots = torch.full((self._n,), _NONE, dtype=torch.int32, device=device)

    def _keep(self, ids: Tensor, rows: Tensor) -> None:
        if not self._used:
            with torch.inference_mode(False):
                self._rows = torch.empty(self._capacity, rows.shape[1], dtype=rows.dtype, device=rows.device)
        end = min(self._capacity, self._used + len(ids))
        kept = end - self._used
        self._rows[self._used : end] = rows[:kept]
        self._slots[ids[:kept]] = torch.arange(self._used, end, dtype=torch.int32, device=ids.device)
        self._used = end
