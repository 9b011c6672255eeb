"""Trellis codes against a search through all codes, their own windows, and what scalar codes lose."""

import pytest
import torch
from torch import Tensor

from foldflat.embedding.trellis import Schedule, decode, encode, window_values


def normal_rows(n: int, d: int, *, seed: int = 0) -> Tensor:
    """Draw standard normal rows (n, d)."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def slow_row(code: list[int], schedule: Schedule, values: Tensor) -> list[float]:
    """Return a row by walking round its bits one by one."""
    bits = [(byte >> i) & 1 for byte in code for i in range(8)]
    end, read = 0, []
    for _, numbers, count in schedule.steps:
        end += count
        state = sum(bits[(end - 12 + i) % len(bits)] << i for i in range(12))
        read += [float(values[(state * factor) % 4096]) for factor in (1, 2533)[:numbers]]
    return read


@pytest.mark.parametrize("pairs", [(8, 4, 3, 1), (16, 0, 1, 5, 2), (2,) * 12, (1,) * 16, (16, 16)], ids=str)
def test_numbers_are_read_from_windows_of_a_circle(pairs: tuple[int, ...]) -> None:
    """Any bytes decode to what a walk round the bits gives: neither shifts nor the seam between ends matter."""
    schedule, values = Schedule(pairs), window_values()
    codes = torch.randint(256, (20, schedule.n_bytes), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    expected = torch.tensor([slow_row(code, schedule, values) for code in codes.tolist()])
    assert torch.equal(decode(codes, schedule, values), expected)


def test_short_codes_are_not_far_from_the_best_of_all() -> None:
    """Of the 65,536 codes of two bytes a third of the rows get the nearest; the loss of all is below twice the least.

    Two bytes are hardly longer than a window: the worst case of a search that fixes the window at the seam first.
    """
    schedule, values = Schedule((5, 3, 6, 2)), window_values()
    rows, scales = normal_rows(64, 8), torch.linspace(1.5, 0.5, 8)
    every = torch.arange(65536)
    table = decode(torch.stack([every & 255, every >> 8], 1).to(torch.uint8), schedule, values) * scales
    least = torch.cdist(rows, table).square().amin(1)
    found = decode(encode(rows, scales, schedule, values), schedule, values) * scales
    lost = (rows - found).square().sum(1)
    assert float((lost < least * 1.0001).double().mean()) > 0.33
    assert float(lost.sum()) < 2 * float(least.sum())


@pytest.mark.parametrize(("pairs", "scalar"), [((2,) * 24, 0.3634), ((4,) * 24, 0.1175), ((8,) * 24, 0.009497)])
def test_a_trellis_loses_less_than_the_best_scalar_code(pairs: tuple[int, ...], scalar: float) -> None:
    """At 1, 2 and 4 bits a number at most .85 of what Lloyd and Max reach for normal numbers (Max, 1960, table 1)."""
    rows, schedule, values = normal_rows(96, 48), Schedule(pairs), window_values()
    scales = torch.full((48,), (1 - scalar) ** 0.5)
    found = decode(encode(rows, scales, schedule, values), schedule, values) * scales
    assert float((rows - found).square().mean()) < 0.85 * scalar


def test_numbers_without_bits_are_not_read() -> None:
    """A schedule reads the numbers of pairs that have bits, in order; one bit of a pair reads both."""
    schedule = Schedule((10, 0, 1, 5))
    assert schedule.n_bytes == 2
    assert schedule.coded == [0, 1, 4, 5, 6, 7]
    assert [bits for _, _, bits in schedule.steps] == [5, 5, 1, 3, 2]
    rows = normal_rows(3, 8)
    changed = rows.clone()
    changed[:, 2:4] = 100
    scales, values = torch.ones(8), window_values()
    assert torch.equal(encode(rows, scales, schedule, values), encode(changed, scales, schedule, values))
