"""Verdicts that a part of the examples already tells: stochastic curtailment."""

from collections.abc import Callable

import numpy as np

from foldflat.certify.risks import Risk

__all__ = ["early_verdict"]


def early_verdict(
    risk: Risk, of: int, limit: float, passes: Callable[[float], bool], *, deviations: float = 2.5
) -> bool | None:
    """Return whether a sample will pass a limit, where the part of it that was seen leaves little doubt; None else.

    The mean of a sample lies within two and a half standard deviations of that of its part, drawn from it without
    replacement, about 99 times in 100. It is asked whether the part would pass a limit that is higher by so much, and
    one that is lower; the answer is returned where both agree. It saves time and decides nothing else: a test that is
    given up counts as failed, so a promise is no more likely to be wrong.

    Source: Lan, Simon and Halperin, "Stochastically curtailed tests in long-term clinical trials", Sequential
    Analysis 1982; the deviation without replacement: Cochran, "Sampling Techniques", 1977.

    Args:
        risk: of the examples seen.
        of: how many there are in all; where that is no more than were seen, the answer is never None.
        limit: of the mean.
        passes: whether values like those seen pass a limit; it rises with the limit.
        deviations: how far off the part may be; fewer save more, and are wrong more often.
    """
    off = deviations * _deviation(risk, of)
    hopeful, doubtful = (passes(float(np.clip(limit + by, risk.low, risk.high))) for by in (off, -off))
    return hopeful if hopeful == doubtful else None


def _deviation(risk: Risk, of: int) -> float:
    """Return the standard deviation of the mean of a part minus that of the whole."""
    left = max(0.0, 1 / risk.n - 1 / of)
    # one example more that is off by half the range: where all seen are alike, the others need not be
    squares = float(np.square(risk.values - risk.mean).sum()) + ((risk.high - risk.low) / 2) ** 2
    return float((squares / risk.n * left) ** 0.5)
