"""Trellis codes: a row of numbers as a circle of bits, each number read from the last twelve of them.

Number t of a row is `values[s]` times a scale, where the state s is the window of 12 bits that ends where the bits of
number t end, the last of them counting most; the windows of neighbours overlap. Which circle of bits is nearest to a
row is found by dynamic programming over the 4,096 states. At 2 bits a number, rows of 64 normal numbers lose .076 of
their variance (measured), the best scalar code .118, and no code less than .0625.

Source: Marcellin and Fischer, "Trellis Coded Quantization of Memoryless and Gauss-Markov Sources", IEEE Transactions
on Communications 1990; windows on shifted bits with random values: Tseng et al., "QTIP", NeurIPS 2024, section 3.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.threads import side_by_side
from foldflat.randomness import torch_generator

__all__ = [
    "LEAST_BYTES",
    "WINDOWS",
    "WINDOW_BYTES",
    "Schedule",
    "decode",
    "encode",
    "joined_bytes",
    "read_windows",
    "window_values",
]

_BITS = 12
WINDOW_BYTES = 3
"""Bytes that hold any window of 12 bits."""

WINDOWS = 1 << _BITS
"""Values that a window of 12 bits tells apart."""

_SEED = 0x7C0
_SECOND = 2533
"""Odd, so that a state times this goes through all states: the second number of a window reads other values."""

_ROWS_AT_ONCE = 64
_ENOUGH_BITS = 6 * _BITS

Step = tuple[int, int, int]
"""First number that a window is read for, numbers read, bits."""

LEAST_BYTES = 2
"""Bytes of the shortest row: a window must not meet itself."""


def window_values() -> Tensor:
    """Return (4096,) float16 values of the windows: normal quantiles in random order."""
    levels = torch.special.ndtri((torch.arange(WINDOWS, dtype=torch.float64) + 0.5) / WINDOWS)
    shuffled: Tensor = levels[torch.randperm(WINDOWS, generator=torch_generator(_SEED))]
    return shuffled.half()


@dataclass(frozen=True)
class Schedule:
    """Say how many bits each pair of neighbouring numbers has.

    One bit of a pair is one window of which both are read; of more, each number has a window of its own.

    Attributes:
        pairs: bits of each pair of numbers, 0 to 16; whole bytes together, at least `LEAST_BYTES` or none.
    """

    pairs: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Return the bytes of a row."""
        return sum(self.pairs) // 8

    @cached_property
    def steps(self) -> list[Step]:
        """Return (first number, numbers read, bits) of each window."""
        found = []
        for i, bits in enumerate(self.pairs):
            if bits == 1:
                found.append((2 * i, 2, 1))
            elif bits:
                found += [(2 * i, 1, bits - bits // 2), (2 * i + 1, 1, bits // 2)]
        return found

    @cached_property
    def reads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return int32 for each number (coded,): first byte of its window, bits to skip there, and 1 for a second."""
        ends = np.cumsum([bits for _, _, bits in self.steps])
        begins = np.repeat(ends, [numbers for _, numbers, _ in self.steps]) - _BITS
        seconds = [i for _, numbers, _ in self.steps for i in range(numbers)]
        found = begins // 8 % max(1, self.n_bytes), begins % 8, np.array(seconds)
        first, skipped, second = (torch.from_numpy(part.astype(np.int32)) for part in found)
        return first, skipped, second

    @cached_property
    def reads_twice(self) -> bool:
        """Return whether two numbers are read from one window anywhere."""
        return any(numbers == 2 for _, numbers, _ in self.steps)

    @cached_property
    def coded(self) -> list[int]:
        """Return which numbers have bits."""
        return [first + i for first, numbers, _ in self.steps for i in range(numbers)]


def decode(codes: Tensor, schedule: Schedule, values: Tensor) -> Tensor:
    """Return (b, numbers that have bits) float32 values in units of their scales, number by number in memory.

    Args:
        codes: (b, n_bytes) uint8.
        schedule: bits of the numbers.
        values: (4096,) of the windows.
    """
    places, shifts, seconds = (part.to(codes.device) for part in schedule.reads)
    # rows of bytes of one place: what belongs to a number is then read in one piece
    columns = codes.T.contiguous()
    # the first byte follows the last
    own = torch.cat([columns, columns[: WINDOW_BYTES - 1]]).to(torch.int32)
    found = joined_bytes(own).index_select(0, places)
    return read_windows(found, shifts[:, None], seconds[:, None] if schedule.reads_twice else None, values).T


def joined_bytes(own: Tensor) -> Tensor:
    """Return (bytes, ..) int32 words of each byte and the next two, the first one lowest, from (bytes + 2, ..)."""
    n_bytes = len(own) - WINDOW_BYTES + 1
    words = own[1 : n_bytes + 1] << 8
    words |= own[:n_bytes]
    words |= own[2:] << 16
    return words


def read_windows(words: Tensor, shifts: Tensor, seconds: Tensor | None, values: Tensor) -> Tensor:
    """Return float32 values of the windows in `words`, int32 that are overwritten.

    Args:
        words: the bytes that hold each window, the first one lowest.
        shifts: bits to skip.
        seconds: 1 where a window is read for the second of its numbers, 0 elsewhere; None for nowhere.
        values: (4096,) of the windows.
    """
    table = values.float()
    states = words.bitwise_right_shift_(shifts).bitwise_and_(WINDOWS - 1)
    if seconds is not None:
        order = (torch.arange(WINDOWS, dtype=torch.int32, device=values.device) * _SECOND) & (WINDOWS - 1)
        table = torch.cat([table, table.index_select(0, order)])
        states |= seconds << _BITS
    return table.index_select(0, states.view(-1)).view(states.shape)


def encode(rows: Tensor, scales: Tensor, schedule: Schedule, values: Tensor) -> Tensor:
    """Return (b, n_bytes) uint8 codes of rows (b, numbers), whose windows begin where they end.

    A first search with free ends, around the seam, says which window to begin with; a second one also ends with it.
    Where a round is short, the first goes round several times, and the second tries the window of each.

    Args:
        rows: numbers to code.
        scales: (numbers,) what a unit of the values stands for, positive where a number has bits.
        schedule: bits of the numbers.
        values: (4096,) of the windows.
    """
    # inference mode is of one thread, and what it makes cannot be changed in others
    with torch.inference_mode(False):
        codes = torch.empty(len(rows), schedule.n_bytes, dtype=torch.uint8, device=rows.device)
    parts = list(blocks(len(rows), 1, elements=_ROWS_AT_ONCE))
    threads = torch.get_num_threads()
    side_by_side(
        partial(_encode_parts, rows, scales, schedule, values, codes),
        [parts[i::threads] for i in range(min(threads, len(parts)))],
        worthwhile=rows.device.type == "cpu",
    )
    return codes


def _encode_parts(
    rows: Tensor, scales: Tensor, schedule: Schedule, values: Tensor, codes: Tensor, parts: Sequence[slice]
) -> None:
    """Set the codes of some parts of the rows."""
    turned, seams = _around(schedule)
    n_costs = max(sum(WINDOWS >> bits for _, _, bits in steps) for steps in (turned, schedule.steps))
    search = _Search(scales, values.float(), n_costs)
    for part in parts:
        block = rows[part].float().T.contiguous()
        path = search.path(block, turned)[0]
        least = block.new_full((block.shape[1],), torch.inf)
        for seam in seams:
            closed, costs = search.path(block, schedule.steps, path[seam])
            better = costs < least
            codes[part][better] = _packed([states[better] for states in closed], schedule)
            least = torch.minimum(least, costs)


def _around(schedule: Schedule) -> tuple[list[Step], list[int]]:
    """Return steps with enough of them before and after the seams of the circle, and the steps that end at a seam."""
    n_steps, rounds = len(schedule.steps), -(-_ENOUGH_BITS // (8 * schedule.n_bytes))
    if rounds > 1:
        return schedule.steps * (2 * rounds), [n_steps * turn - 1 for turn in range(1, 2 * rounds)]
    ends = list(accumulate(bits for _, _, bits in schedule.steps))
    before, after = bisect_right(ends, ends[-1] - _ENOUGH_BITS), bisect_left(ends, _ENOUGH_BITS) + 1
    return schedule.steps[before:] + schedule.steps[:after], [n_steps - before - 1]


def _packed(path: Sequence[Tensor], schedule: Schedule) -> Tensor:
    bits = [
        (states[:, None] >> torch.arange(_BITS - count, _BITS, device=states.device)) & 1
        for states, (_, _, count) in zip(path, schedule.steps, strict=True)
    ]
    eights = torch.cat(bits, 1).view(len(path[0]), schedule.n_bytes, 8)
    return (eights << torch.arange(8, device=eights.device)).sum(2).to(torch.uint8)


class _Search:
    """Find the windows nearest to rows, over states that are rows of a matrix with one column for each row.

    A step of R bits takes state s to (bits x 2^(12 - R)) + (s >> R). Of the states that come to one they share, only
    the least cost is kept: which state had it is told again, for one path, by the costs before.
    """

    def __init__(self, scales: Tensor, values: Tensor, n_costs: int) -> None:
        self._scales = scales.float().tolist()
        order = (torch.arange(WINDOWS, device=values.device) * _SECOND) & (WINDOWS - 1)
        self._numbers = values, values[order]
        self._values = torch.stack([part for own in self._numbers for part in (own.square(), own)], 1)
        # new memory would take longer than the search
        self._costs = values.new_empty(2, WINDOWS * _ROWS_AT_ONCE)
        self._least = values.new_empty(n_costs * _ROWS_AT_ONCE)

    def path(self, block: Tensor, steps: Sequence[Step], begin: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the states (b,) after each step, and the squared distances (b,) up to a constant of each row.

        Args:
            block: (numbers, b).
            steps: first number, numbers read and bits of each.
            begin: (b,) the state before the first step and after the last; None leaves both free.
        """
        b = block.shape[1]
        costs, spare = self._costs[0, : WINDOWS * b].view(WINDOWS, b), self._costs[1]
        costs.fill_(0.0 if begin is None else torch.inf)
        if begin is not None:
            costs.scatter_(0, begin[None], 0.0)
        passed, used = [], 0
        for first, numbers, bits in steps:
            part = slice(used, used + (WINDOWS >> bits) * b)
            least = _least(costs, bits, spare, self._least[part].view(-1, b))
            factors = self._factors(block, first, numbers)
            # adding to what is there is the fastest product
            costs.view(1 << bits, -1, b).copy_(least)
            torch.addmm(costs, self._values[:, : 2 * numbers], factors, out=costs)
            passed.append((least, factors))
            used = part.stop
        end = costs.argmin(0) if begin is None else begin
        return self._traced(end, steps, passed), costs.gather(0, end[None])[0]

    def _factors(self, block: Tensor, first: int, numbers: int) -> Tensor:
        """Return what the values are multiplied by for the squared distance, up to a constant of each row."""
        factors = block.new_empty(2 * numbers, block.shape[1])
        for i in range(numbers):
            scale = self._scales[first + i]
            factors[2 * i] = scale * scale
            torch.mul(block[first + i], -2 * scale, out=factors[2 * i + 1])
        return factors

    def _traced(self, end: Tensor, steps: Sequence[Step], passed: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Return the states (b,) after each step of the paths to `end`."""
        path, dropped = [end], torch.arange(1 << max(bits for _, _, bits in steps), device=end.device)[:, None]
        for (_, _, bits), (least, factors) in zip(reversed(steps[1:]), reversed(passed[:-1]), strict=True):
            kept = path[-1] & ((WINDOWS >> bits) - 1)
            before = (kept << bits) + dropped[: 1 << bits]
            costs = least.gather(0, before & (len(least) - 1))
            for i in range(0, len(factors), 2):
                values = self._numbers[i // 2].take(before)
                costs += torch.addcmul(factors[i + 1], values, factors[i]).mul_(values)
            path.append(before.gather(0, costs.argmin(0, keepdim=True))[0])
        return path[::-1]


def _least(costs: Tensor, bits: int, spare: Tensor, found: Tensor) -> Tensor:
    """Return the least costs over the oldest bits of the states, in the memory of `found`."""
    costs = costs.view(WINDOWS >> bits, 1 << bits, -1)
    used = 0
    for left in reversed(range(bits)):
        lower, upper = costs.chunk(2, 1)
        part = slice(used, used + lower.numel())
        costs = torch.minimum(lower, upper, out=(spare[part] if left else found).view(lower.shape))
        used = part.stop
    return costs.squeeze(1)
