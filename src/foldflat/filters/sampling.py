"""Which channels stay, and what their weights are multiplied by: drawn, chosen, or both.

Draws of one seed are one sequence, and m draws are its first m: what is kept grows with m in all three ways, so that a
larger budget never loses a channel that a smaller one kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.axes import BLOCK_ELEMENTS, blocks
from foldflat.errors import RecipeError
from foldflat.filters.bounds import checked_probabilities
from foldflat.randomness import torch_generator

__all__ = ["Sample", "draw_hybrid", "draw_random", "keep_largest"]


@dataclass(frozen=True)
class Sample:
    """Say which input channels of a layer stay.

    Attributes:
        kept: (u,) int64, ascending.
        factors: (u,) float64 that the weights of each kept channel are multiplied by.
    """

    kept: Tensor
    factors: Tensor


def draw_random(probabilities: Tensor, draws: int, seed: int = 0) -> Sample:
    """Draw channels with replacement and keep those drawn n_j > 0 times, with factors n_j / (m p_j).

    The expectation of the weights, zero where a channel goes, is the weights before. For one seed the kept set of m
    draws is a subset of that of more.

    Args:
        probabilities: (c,), non-negative, with sum 1; the theorem of `foldflat.filters.bounds` takes s_j / S.
        draws: m, at least 1.
        seed: of the sequence of draws.

    Raises:
        DataError: `probabilities` are none.
        RecipeError: `draws` is below 1.

    Source: Liebenwein et al. (ICLR 2020), algorithm 2.
    """
    p = checked_probabilities(probabilities)
    counts = _counts(p, draws, seed)
    kept = torch.nonzero(counts).squeeze(1)
    return Sample(kept, counts[kept] / (draws * p[kept]))


def draw_hybrid(probabilities: Tensor, draws: int, seed: int = 0) -> Sample:
    """Keep channels of probability 1 / m and more as they are, and of the others those drawn, re-weighted.

    The draws are those of `draw_random`, and so are the factors of the channels that had to be drawn: unbiased as
    well, and no factor varies more than there. For one seed the kept set of m draws is exactly nested in that of more,
    and contains that of `draw_random`.

    Args:
        probabilities: (c,), non-negative, with sum 1.
        draws: m, at least 1.
        seed: of the sequence of draws.

    Raises:
        DataError: `probabilities` are none.
        RecipeError: `draws` is below 1.
    """
    p = checked_probabilities(probabilities)
    counts = _counts(p, draws, seed)
    certain = draws * p >= 1
    kept = torch.nonzero(certain | (counts > 0)).squeeze(1)
    factors = torch.where(certain, 1.0, counts / (draws * p))
    return Sample(kept, factors[kept])


def keep_largest(probabilities: Tensor, count: int) -> Sample:
    """Keep the `count` channels of largest probability as they are; of equal ones those that come first.

    Biased: the output loses what `foldflat.filters.bounds.dropped_mass_bound` bounds.

    Args:
        probabilities: (c,), non-negative, with sum 1.
        count: channels, from 1 to c.

    Raises:
        DataError: `probabilities` are none.
        RecipeError: `count` is out of range.
    """
    p = checked_probabilities(probabilities)
    if not 1 <= count <= len(p):
        raise RecipeError(f"`count` is {count}, and there are {len(p)} channels; hint: keep 1 to {len(p)}")
    kept = p.argsort(descending=True, stable=True)[:count].sort().values
    return Sample(kept, torch.ones(count, dtype=torch.float64))


def _counts(probabilities: Tensor, draws: int, seed: int) -> Tensor:
    """Return (c,) how often each channel is drawn; a channel of probability 0 never is."""
    if draws < 1:
        raise RecipeError(f"`draws` is {draws}, the least is 1; hint: `draws_for_distinct` says how many to make")
    generator = torch_generator(seed)
    ends = probabilities.cumsum(0)
    ends = ends / ends[-1]
    counts = torch.zeros(len(ends), dtype=torch.int64)
    for part in blocks(draws, 1, elements=BLOCK_ELEMENTS):
        points = torch.rand(part.stop - part.start, dtype=torch.float64, generator=generator)
        counts += torch.bincount(torch.searchsorted(ends, points, right=True), minlength=len(ends))
    return counts
