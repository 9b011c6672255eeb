"""Channels on their way through a graph: one number for each, joined where two have to go together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Channels", "Ids", "Tracked"]

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Tracked:
    """Say which channel every entry of one axis of a tensor belongs to.

    Attributes:
        axis: counted from the left.
        ids: (size of the axis,) channel numbers.
    """

    axis: int
    ids: Ids


class Channels:
    """Number channels, join those that go together, and pin those that have to stay."""

    def __init__(self) -> None:
        """Know no channel yet."""
        self._parents: list[int] = []
        self._reasons: dict[int, str] = {}
        self._ties: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def new(self, count: int) -> Ids:
        """Return the numbers (count,) of new channels."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def join(self, first: Ids, second: Ids, note: str = "") -> None:
        """Let first[i] and second[i] go together, for each i; `note` says what ties them if it is not plain."""
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            roots = self._root(one), self._root(other)
            self._parents[max(roots)] = min(roots)
            if note:
                self._ties[min(roots)] = note

    def pin(self, ids: Ids, reason: str) -> None:
        """Keep channels; the first reason given for one is remembered."""
        for channel in ids.tolist():
            self._reasons.setdefault(channel, reason)

    def roots(self) -> Ids:
        """Return for every channel the smallest number among those that it goes with."""
        return np.array([self._root(channel) for channel in range(len(self))], dtype=np.int64)

    def reasons(self) -> dict[int, str]:
        """Return by root why its channels have to stay."""
        found: dict[int, str] = {}
        for channel, reason in sorted(self._reasons.items()):
            found.setdefault(self._root(channel), reason)
        return found

    def ties(self) -> dict[int, str]:
        """Return by root what ties its channels beside the plain flow of data."""
        return {self._root(channel): note for channel, note in sorted(self._ties.items())}

    def _root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            self._parents[channel] = self._parents[self._parents[channel]]
            channel = self._parents[channel]
        return channel
