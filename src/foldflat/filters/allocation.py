"""How many channels each group keeps: one number decides for the whole network, and is searched for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foldflat.budget import convex_slopes, counts_at
from foldflat.filters.bounds import expected_distinct, samples_needed
from foldflat.filters.elimination import Elimination
from foldflat.filters.sampling import draw_hybrid, draw_random

__all__ = ["Candidate", "Choice", "Family", "by_epsilon", "by_error", "by_share", "by_threshold", "largest_within"]

_STEPS = 60
_EPSILON_RANGE = (1e-4, 1e6)
_MOST_DRAWS = 1_000_000


@dataclass(frozen=True)
class Candidate:
    """Hold what the search needs of one group.

    Attributes:
        scores: (c,) float64, non-negative.
        patches, kernel_area: of the layer that reads the channels: windows of one example, positions of a window.
        width: entries of the layers' axis that each channel stands for.
        fixed: entries of that axis that stay in any case.
    """

    scores: Tensor
    patches: int = 1
    kernel_area: int = 1
    width: int = 1
    fixed: int = 0

    @property
    def probabilities(self) -> Tensor:
        """Return (c,) scores as shares of their sum; equal ones where all are zero."""
        total = self.scores.sum()
        return self.scores / total if total > 0 else torch.full_like(self.scores, 1 / len(self.scores))


@dataclass(frozen=True)
class Choice:
    """Hold what is kept of one group.

    Attributes:
        kept: positions within the group, in increasing order.
        factors: (len(kept),) float64, by what readers multiply each of them.
        draws: of importance sampling; 0 where nothing was drawn.
    """

    kept: Tensor
    factors: Tensor
    draws: int = 0


Family = Callable[[float], list[Choice]]
"""From a number in [0, 1] to what each group keeps; a larger number never keeps fewer."""


def by_epsilon(
    candidates: Sequence[Candidate], variant: str, delta: float, round_to: int, seeds: Sequence[int]
) -> tuple[Family, Callable[[float], float]]:
    """Keep what one error bound asks of every group.

    Source: Liebenwein et al., ICLR 2020: the same epsilon for all layers, sample counts from the theorem, and for the
    deterministic variant as many of the most sensitive channels as distinct ones are expected.

    Returns:
        the family, and the epsilon of each of its numbers.
    """
    high, low = _EPSILON_RANGE[1], _EPSILON_RANGE[0]

    def epsilon(t: float) -> float:
        return float(high ** (1 - 2 * min(t, 0.5)) * low ** (2 * min(t, 0.5)))

    def draws(candidate: Candidate, t: float) -> int:
        needed = samples_needed(
            float(candidate.scores.sum()), epsilon(t), delta, candidate.patches, candidate.kernel_area
        )
        return max(1, min(needed, _MOST_DRAWS))

    def chosen(t: float) -> list[Choice]:
        found = []
        for candidate, seed in zip(candidates, seeds, strict=True):
            m = draws(candidate, t)
            extra = max(0.0, 2 * t - 1)
            if variant == "deterministic":
                distinct = float(expected_distinct(candidate.probabilities, m))
                # channels that calibration never saw are in no draw, and come back last
                count = distinct + extra * (len(candidate.scores) - distinct)
                found.append(_top(candidate, _rounded(candidate, count, round_to)))
            elif extra >= 1:
                found.append(_top(candidate, len(candidate.scores)))
            else:
                sample = (draw_random if variant == "random" else draw_hybrid)(candidate.probabilities, m, seed)
                found.append(Choice(sample.kept, sample.factors, m))
        return found

    return chosen, epsilon


def by_share(candidates: Sequence[Candidate], round_to: int) -> Family:
    """Keep the same share of every group, the best scores first."""

    def chosen(t: float) -> list[Choice]:
        return [_top(group, _rounded(group, t * len(group.scores), round_to)) for group in candidates]

    return chosen


def by_threshold(candidates: Sequence[Candidate], round_to: int) -> Family:
    """Keep the best scores of the whole network, each group's in shares of its mean."""
    relative = [group.scores / group.scores.mean().clamp_min(1e-300) for group in candidates]
    pooled = torch.cat(relative).sort(descending=True).values

    def chosen(t: float) -> list[Choice]:
        count = round(t * len(pooled))
        least = pooled[count - 1] if count else torch.inf
        return [
            _top(group, _rounded(group, float((scores >= least).sum()), round_to))
            for group, scores in zip(candidates, relative, strict=True)
        ]

    return chosen


def by_error(
    candidates: Sequence[Candidate], eliminations: Sequence[Elimination], prices: Sequence[float], round_to: int
) -> Family:
    """Keep what makes the sum of the groups' errors smallest for what the channels take.

    Source: ours; the Lagrangian of the budget, on the lower convex hull of each group's error curve.

    Args:
        candidates: the groups.
        eliminations: their orders and error curves.
        prices: what one channel of each takes.
        round_to: as in FilterRecipe.
    """
    slopes = [convex_slopes(elimination.errors) for elimination in eliminations]
    ratios = np.concatenate([slope / price for slope, price in zip(slopes, prices, strict=True)])
    useful = ratios[np.isfinite(ratios) & (ratios > 0)]
    high, low = (2 * useful.max(), useful.min() / 2) if len(useful) else (1.0, 1.0)

    def chosen(t: float) -> list[Choice]:
        multiplier = 0.0 if t >= 1 else high ** (1 - t) * low**t
        counts = counts_at(slopes, prices, multiplier)
        return [
            _chosen(elimination.order.flip(0), _rounded(candidate, count, round_to))
            for candidate, elimination, count in zip(candidates, eliminations, counts, strict=True)
        ]

    return chosen


def largest_within(
    family: Family,
    size: Callable[[list[Choice]], float],
    limit: float,
    candidates: Sequence[Candidate],
    round_to: int = 1,
) -> tuple[float, list[Choice]]:
    """Return the largest number at which a family takes at most `limit`, and what is kept there.

    Where many channels come with the next larger number, as many of them as fit are kept as well, by their scores.

    Args:
        family: takes at most `limit` at 0.
        size: of a network that keeps so much.
        limit: in the same unit.
        candidates: the groups.
        round_to: as in FilterRecipe.
    """
    low, high = 0.0, 1.0
    chosen = family(high)
    if size(chosen) <= limit:
        return high, chosen
    best = family(low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        chosen = family(middle)
        if size(chosen) <= limit:
            low, best = middle, chosen
        else:
            high = middle
    larger = family(high)
    for i, (candidate, small, large) in enumerate(zip(candidates, best, larger, strict=True)):
        for step in _between(small, large, candidate, round_to):
            tried = [*best[:i], step, *best[i + 1 :]]
            if size(tried) <= limit:
                best = tried
                break
    return low, best


def _between(small: Choice, large: Choice, candidate: Candidate, round_to: int) -> list[Choice]:
    """Return what lies between two choices, the largest first; only the larger one where channels are drawn."""
    extra = large.kept[~torch.isin(large.kept, small.kept)]
    if not len(extra):
        return []
    if large.draws:
        return [large]
    order = torch.cat([small.kept, extra[candidate.scores[extra].argsort(descending=True, stable=True)]])
    counts = range(len(order), len(small.kept), -1)
    return [_chosen(order, count) for count in counts if _fits(candidate, count, round_to)]


def _rounded(candidate: Candidate, count: float, round_to: int) -> int:
    """Return at least one channel, and the number nearest to `count` that leaves a width divisible by `round_to`."""
    most = len(candidate.scores)
    nearest = min(most, max(1, int(count + 0.5)))
    if round_to == 1:
        return nearest
    fitting = [n for n in range(1, most + 1) if _fits(candidate, n, round_to)]
    return min(fitting, key=lambda n: (abs(n - nearest), n)) if fitting else most


def _fits(candidate: Candidate, count: int, round_to: int) -> bool:
    return (count * candidate.width + candidate.fixed) % round_to == 0


def _top(candidate: Candidate, count: int) -> Choice:
    return _chosen(candidate.scores.sort(descending=True, stable=True).indices, count)


def _chosen(order: Tensor, count: int) -> Choice:
    kept = order[:count].sort().values
    return Choice(kept, torch.ones(count, dtype=torch.float64))
