"""Turning a basis whose beginnings are subspaces: never a loss, and a gain wherever there is one to be had."""

import itertools

import pytest
import torch
from torch import Tensor

from foldflat.cluster.groups import turned


def captured(segments: list[Tensor], grams: list[Tensor]) -> float:
    """Return the energy that segments hold of the rows that use them."""
    return sum(float(((part @ gram) * part).sum()) for part, gram in zip(segments, grams, strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_turning_captures_more_until_nothing_is_left_to_gain(seed: int) -> None:
    """From any directions to those of the rows, though ever fewer rows use the later segments."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(300, 9, generator=generator, dtype=torch.float64) * torch.arange(1, 10).flip(0)
    grams = [rows[first:].T @ rows[first:] for first in (0, 120, 200)]
    start = torch.linalg.qr(torch.randn(9, 7, generator=generator, dtype=torch.float64)).Q.T
    segments = list(start.split([3, 2, 2]))
    energies = [captured(segments, grams)]
    for _ in range(40):
        segments = turned(segments, grams)
        energies.append(captured(segments, grams))
    whole = torch.cat(segments)
    torch.testing.assert_close(whole @ whole.T, torch.eye(7, dtype=torch.float64))
    assert all(after >= before * (1 - 1e-12) for before, after in itertools.pairwise(energies))
    assert energies[1] > 1.05 * energies[0]
