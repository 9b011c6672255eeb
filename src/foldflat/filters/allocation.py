"""How many channels each group keeps: one number decides for the whole network, and is searched for."""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldflat.budget import convex_slopes, counts_at
from foldflat.filters.bounds import epsilon_supported, expected_distinct, samples_needed
from foldflat.filters.sampling import draw_hybrid, draw_random

__all__ = ["Candidate", "Choice", "Family", "by_epsilon", "by_error", "by_share", "by_threshold", "largest_within"]

_STEPS = 60
_EPSILON_RANGE = (1e-4, 1e6)
_MOST_DRAWS = 200_000


@dataclass(frozen=True)
class Candidate:
    """Hold what the search needs of one group.

    Attributes:
        scores: (c,) float64, non-negative.
        patches, kernel_area: of the layer that reads the channels: windows of one example, positions of a window.
        width: entries of the layers' axis that each channel stands for.
        fixed: entries of that axis that stay in any case.
        order: (c,) positions, the one that stays longest first; None: by scores.
    """

    scores: Tensor
    patches: int = 1
    kernel_area: int = 1
    width: int = 1
    fixed: int = 0
    order: Tensor | None = None

    @property
    def ranking(self) -> Tensor:
        """Return (c,) positions, the one that stays longest first."""
        if self.order is not None:
            return self.order
        return self.scores.sort(descending=True, stable=True).indices

    def counts(self, round_to: int) -> list[int]:
        """Return the numbers of channels that leave a width divisible by `round_to`, and all of them."""
        c = len(self.scores)
        return [n for n in range(1, c) if (n * self.width + self.fixed) % round_to == 0] + [c]

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
    low, high = _EPSILON_RANGE

    def asked(t: float) -> float:
        return float(high ** (1 - 2 * min(t, 0.5)) * low ** (2 * min(t, 0.5)))

    def draws(candidate: Candidate, t: float) -> int:
        total = float(candidate.scores.sum())
        if total <= 0:
            return 0
        return min(samples_needed(total, asked(t), delta, candidate.patches, candidate.kernel_area), _MOST_DRAWS)

    def epsilon(t: float) -> float:
        supported = (
            epsilon_supported(float(group.scores.sum()), m, delta, group.patches, group.kernel_area)
            for group in candidates
            if (m := draws(group, t))
        )
        return max(asked(t), *supported, 0.0)

    def chosen(t: float) -> list[Choice]:
        extra = max(0.0, 2 * t - 1)
        found = []
        for candidate, seed in zip(candidates, seeds, strict=True):
            m = draws(candidate, t)
            if variant == "deterministic" or m == 0 or extra >= 1:
                distinct = expected_distinct(candidate.probabilities, m) if m else 1.0
                # channels that calibration never saw are in no draw, and come back last
                count = distinct + extra * (len(candidate.scores) - distinct)
                found.append(_top(candidate, _rounded(candidate, count, round_to), m))
            else:
                found.append(_drawn(candidate, variant, m, seed, extra))
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
    candidates: Sequence[Candidate], errors: Sequence[NDArray[np.float64]], prices: Sequence[float], round_to: int
) -> Family:
    """Keep what makes the sum of the groups' errors smallest for what the channels take.

    Source: ours; the Lagrangian of the budget, on the lower convex hull of each group's error curve.

    Args:
        candidates: the groups.
        errors: of each, (c + 1,) the error with 0, 1, .., c of its channels.
        prices: what one channel of each takes.
        round_to: as in FilterRecipe.
    """
    # no group may lose all its channels
    slopes = [convex_slopes(np.concatenate([[np.inf], curve[1:]])) for curve in errors]
    ratios = np.concatenate([slope / price for slope, price in zip(slopes, prices, strict=True)])
    useful = ratios[np.isfinite(ratios) & (ratios > 0)]
    high, low = (2 * useful.max(), useful.min() / 2) if len(useful) else (1.0, 1.0)

    def chosen(t: float) -> list[Choice]:
        multiplier = 0.0 if t >= 1 else high ** (1 - t) * low**t
        counts = counts_at(slopes, prices, multiplier)
        return [_top(group, _rounded(group, count, round_to)) for group, count in zip(candidates, counts, strict=True)]

    return chosen


def largest_within(
    family: Family,
    size: Callable[[list[Choice]], float],
    limit: float,
    candidates: Sequence[Candidate],
    round_to: int,
    slack: float,
) -> tuple[float, list[Choice]]:
    """Return the largest number at which a family takes at most `limit`, and what is kept there.

    Where several groups grow at the next number, they do so one after the other as far as the limit goes: always in
    the same order, so that a smaller limit keeps a part of what a larger one keeps. Only where the next channel is so
    large that more than `slack` is left, smaller ones that are not due yet fill it.

    Args:
        family: what is kept, by number.
        size: of what is kept.
        limit: at least what the family takes at 0.
        candidates: the groups.
        round_to: as in FilterRecipe.
        slack: below the limit.
    """
    low, high = 0.0, 1.0
    above = family(high)
    if size(above) <= limit:
        return high, above
    best = family(low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        chosen = family(middle)
        if size(chosen) <= limit:
            low, best = middle, chosen
        else:
            high, above = middle, chosen
    for number, candidate in enumerate(candidates):
        before, behind = best[:number], best[number + 1 :]
        steps = [[*before, step, *behind] for step in _between(candidate, best[number], above[number], round_to)]
        fitting = bisect.bisect_right(steps, limit, key=size)
        if fitting:
            best = steps[fitting - 1]
        if fitting < len(steps):
            break
    return low, _filled(best, size, (limit - slack, limit), candidates, round_to)


def _filled(
    chosen: list[Choice],
    size: Callable[[list[Choice]], float],
    wanted: tuple[float, float],
    candidates: Sequence[Candidate],
    round_to: int,
) -> list[Choice]:
    """Add channels, the largest that fits first, until what is kept takes what is wanted; drawn ones stay as drawn."""
    least, most = wanted
    while size(chosen) < least:
        trials = []
        for number, (candidate, own) in enumerate(zip(candidates, chosen, strict=True)):
            next_count = next((count for count in candidate.counts(round_to) if count > len(own.kept)), None)
            if next_count is not None and _is_ranked(candidate, own):
                step = _top(candidate, next_count, own.draws)
                trials.append([*chosen[:number], step, *chosen[number + 1 :]])
        fitting = [trial for trial in trials if size(trial) <= most]
        if not fitting:
            break
        chosen = max(fitting, key=size)
    return chosen


def _between(candidate: Candidate, less: Choice, more: Choice, round_to: int) -> list[Choice]:
    """Return what leads from one choice to a larger one: channel by channel where they are ranked, not drawn."""
    if torch.equal(less.kept, more.kept) and torch.equal(less.factors, more.factors):
        return []
    if not _is_ranked(candidate, more):
        return [more]
    counts = (count for count in candidate.counts(round_to) if len(less.kept) < count < len(more.kept))
    return [*(_top(candidate, count, more.draws) for count in counts), more]


def _is_ranked(candidate: Candidate, choice: Choice) -> bool:
    ranked = _top(candidate, len(choice.kept)).kept
    return torch.equal(ranked, choice.kept) and not bool((choice.factors != 1).any())


def _drawn(candidate: Candidate, variant: str, draws: int, seed: int, extra: float) -> Choice:
    """Draw channels, and put back a part of those that no draw can bring."""
    sample = (draw_random if variant == "random" else draw_hybrid)(candidate.probabilities, draws, seed)
    never = (candidate.probabilities == 0).nonzero()[:, 0]
    never = never[: round(extra * len(never))]
    order = torch.cat([sample.kept, never]).sort()
    factors = torch.cat([sample.factors, torch.ones(len(never), dtype=torch.float64)])
    return Choice(order.values, factors[order.indices], draws)


def _rounded(candidate: Candidate, count: float, round_to: int) -> int:
    """Return at least one channel, and the number nearest to `count` that leaves a width divisible by `round_to`.

    All channels may stay whatever their number; a group in which no smaller number fits keeps them.
    """
    most = len(candidate.scores)
    nearest = min(most, max(1, int(count + 0.5)))
    if round_to == 1 or nearest == most:
        return nearest
    fitting = candidate.counts(round_to)
    if len(fitting) > 1 and (most * candidate.width + candidate.fixed) % round_to:
        fitting = fitting[:-1]
    return min(fitting, key=lambda n: (abs(n - nearest), n))


def _top(candidate: Candidate, count: int, draws: int = 0) -> Choice:
    kept = candidate.ranking[:count].sort().values
    return Choice(kept, torch.ones(count, dtype=torch.float64), draws)
