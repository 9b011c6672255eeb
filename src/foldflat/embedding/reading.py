"""Read rows of many classes of trellis codes at once, in as few passes as one class takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.embedding.trellis import WINDOW_BYTES, Schedule, joined_bytes, read_windows

__all__ = ["RowReader"]

_NARROWEST = 0.7
"""Classes are read together, padded to the widest, down to this share of its directions."""

_BLOCK_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class _Tables:
    """Say for each class, as rows of matrices padded alike, where its windows lie.

    Attributes:
        starts: (classes,) where the codes of each class begin.
        lengths: (classes,) bytes of a row.
        circles: (classes, bytes + 2) the bytes of a row in order, and the first two again.
        places, shifts: (classes, width) byte of each direction's window, and bits to skip.
        seconds: (classes, width) 1 where a window is read for the second time, None if none is.
        scales: (classes, width) place of each direction's scale among those of all classes; the last is none.
    """

    starts: Tensor
    lengths: Tensor
    circles: Tensor
    places: Tensor
    shifts: Tensor
    seconds: Tensor | None
    scales: Tensor


class RowReader:
    """Read coefficients of rows whose classes differ, padded with zeros to the directions of the widest class.

    Bundles are classes that are read together; `bundles[i]` is that of class i and `widths` the directions of each.
    What is derived here is neither stored nor copied with the layer.
    """

    def __init__(self, schedules: Sequence[Schedule], sizes: Sequence[int]) -> None:
        self._schedules, self._sizes = list(schedules), list(sizes)
        extents = [max(schedule.coded, default=-1) + 1 for schedule in schedules]
        self.widths: list[int] = []
        self.bundles = [0] * len(extents)
        for i in sorted(range(len(extents)), key=lambda i: -extents[i]):
            if not self.widths or extents[i] < _NARROWEST * self.widths[-1]:
                self.widths.append(extents[i])
            self.bundles[i] = len(self.widths) - 1
        self._tables: dict[torch.device, list[_Tables]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tables": {}}

    def read(
        self, bundle: int, classes: Tensor, positions: Tensor, codes: Tensor, scales: Tensor, values: Tensor
    ) -> Tensor:
        """Return coefficients (b, width) of rows of classes of one bundle.

        Args:
            bundle: number of the bundle.
            classes, positions: (b,) class of each row, and its place within the class.
            codes, scales: of all classes, one after the other; what is returned has a gradient where scales have.
            values: (4096,) of the windows.
        """
        tables = self._tables_on(codes.device)[bundle]
        # a scale of zero for directions without bits
        padded = torch.cat([scales.float(), scales.new_zeros(1, dtype=torch.float32)])
        starts = tables.starts.index_select(0, classes) + positions * tables.lengths.index_select(0, classes)
        if padded.requires_grad:
            return _read(tables, classes, starts, codes, padded, values)
        found = padded.new_empty(len(classes), self.widths[bundle])
        for part in blocks(len(classes), max(1, self.widths[bundle]), elements=_BLOCK_ELEMENTS):
            found[part] = _read(tables, classes[part], starts[part], codes, padded, values)
        return found

    def _tables_on(self, device: torch.device) -> list[_Tables]:
        if device not in self._tables:
            self._tables[device] = [self._built(width, device) for width in self.widths]
        return self._tables[device]

    def _built(self, width: int, device: torch.device) -> _Tables:
        n_classes = len(self._schedules)
        lengths = torch.tensor([schedule.n_bytes for schedule in self._schedules])
        starts = (lengths * torch.tensor(self._sizes)).cumsum(0) - lengths * torch.tensor(self._sizes)
        coded = torch.tensor([len(schedule.coded) for schedule in self._schedules])
        first_scales = coded.cumsum(0) - coded
        members = [i for i in range(n_classes) if self.widths[self.bundles[i]] == width]
        n_bytes = max((self._schedules[i].n_bytes for i in members), default=0)
        circles = torch.zeros(n_classes, n_bytes + WINDOW_BYTES - 1, dtype=torch.int64)
        places, shifts, seconds = (torch.zeros(n_classes, width, dtype=torch.int32) for _ in range(3))
        where = torch.full((n_classes, width), int(coded.sum()))
        for i in members:
            schedule = self._schedules[i]
            if not schedule.n_bytes:
                continue
            circles[i] = torch.arange(circles.shape[1]) % schedule.n_bytes
            places[i, schedule.coded], shifts[i, schedule.coded], seconds[i, schedule.coded] = schedule.reads
            where[i, schedule.coded] = first_scales[i] + torch.arange(len(schedule.coded))
        return _Tables(
            starts=starts.to(device),
            lengths=lengths.to(device),
            circles=circles.to(device),
            places=places.to(device),
            shifts=shifts.to(device),
            seconds=seconds.to(device) if seconds.any() else None,
            scales=where.to(device),
        )


def _read(tables: _Tables, classes: Tensor, starts: Tensor, codes: Tensor, scales: Tensor, values: Tensor) -> Tensor:
    """Return coefficients (b, width); what belongs to a class is copied row by row, which is what is fast."""
    circles = tables.circles.index_select(0, classes).add_(starts[:, None])
    n_rows, n_bytes = circles.shape[0], circles.shape[1] - WINDOW_BYTES + 1
    if not n_bytes:
        return scales.new_zeros(n_rows, tables.places.shape[1])
    own = codes.index_select(0, circles.view(-1)).view(circles.shape).to(torch.int32)
    words = joined_bytes(own.T).T
    first = torch.arange(0, n_rows * n_bytes, n_bytes, dtype=torch.int32, device=codes.device)
    places = tables.places.index_select(0, classes).add_(first[:, None])
    seconds = None if tables.seconds is None else tables.seconds.index_select(0, classes)
    found = words.reshape(-1).index_select(0, places.view(-1)).view(places.shape)
    windows = read_windows(found, tables.shifts.index_select(0, classes), seconds, values)
    own_scales = scales.index_select(0, tables.scales.index_select(0, classes).view(-1)).view(places.shape)
    return windows * own_scales if own_scales.requires_grad else windows.mul_(own_scales)
