"""The smallest candidate whose risk is bounded, from one look at held-out examples."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from foldflat.certify.bounds import check_delta
from foldflat.certify.risks import Risk
from foldflat.certify.selection import TestGraph, sequences_graph
from foldflat.errors import RecipeError

__all__ = ["Certification", "Tested", "certify", "examples_needed", "foreseen_p_value"]

_MOST = 10**8


@dataclasses.dataclass(frozen=True)
class Tested:
    """Hold what was found of one candidate.

    Attributes:
        name: of the candidate.
        risk: of the examples, of some where its test was given up.
        p_value: of the hypothesis that its mean risk is at least the limit; 1 where its test was given up.
        promised: whether that was rejected.
    """

    name: str
    risk: Risk
    p_value: float
    promised: bool


@dataclasses.dataclass(frozen=True)
class Certification:
    """Hold a promise: with chance 1 - delta over the examples, every promised candidate's mean risk is below the limit.

    Attributes:
        limit: of the mean risk.
        delta: chance that the promise is wrong.
        tested: candidates in the order in which they were tested; those behind the first failure are not among them.
    """

    limit: float
    delta: float
    tested: tuple[Tested, ...]

    @property
    def promised(self) -> tuple[str, ...]:
        """Return the names of the candidates that the promise is about."""
        return tuple(one.name for one in self.tested if one.promised)

    @property
    def chosen(self) -> str | None:
        """Return the last candidate that is promised, the smallest of a nested family; None for none."""
        return self.promised[-1] if self.promised else None


def certify(
    candidates: Sequence[str],
    measure: Callable[[str], Risk],
    limit: float,
    *,
    delta: float = 0.05,
    graph: TestGraph | None = None,
    n: int | None = None,
) -> Certification:
    """Find the candidates whose mean risk is below a limit, with one chance of error for the whole search.

    Candidates are tested one after another, ever smaller, up to the first that fails; none behind it is measured.
    The promise holds for examples that are independent draws from what the model will meet, where neither candidates
    nor their order nor the limit depend on them.

    Source: Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test", 2021, fixed-sequence testing and graphs.

    Args:
        candidates: names, in the order in which they are tested.
        measure: returns a candidate's risk on the examples; called once for each that is tested.
        limit: of the mean risk.
        delta: chance that any promise is wrong.
        graph: for candidates that are not nested, how delta is spent; default all of it down the sequence.
        n: examples of a test; a candidate whose risk is measured on fewer, because the others could hardly save it,
            has failed. None: whatever is measured is a test.

    Raises:
        RecipeError: no candidates, one twice, a graph of others, delta outside (0, 1).
    """
    check_delta(delta)
    tests = sequences_graph([candidates]) if graph is None else graph
    if set(tests.shares) != set(candidates):
        raise RecipeError(
            f"the graph tests {sorted(tests.shares)}, the candidates are {sorted(candidates)}\nhint: the same"
        )
    found: dict[str, tuple[Risk, float]] = {}

    def p_value(name: str) -> float:
        risk = measure(name)
        given_up = n is not None and risk.n < n
        found[name] = risk, 1.0 if given_up else risk.p_value(limit, delta)
        return found[name][1]

    rejected = tests.rejected(p_value, delta)
    return Certification(
        limit, delta, tuple(Tested(name, risk, p, name in rejected) for name, (risk, p) in found.items())
    )


def examples_needed(risk: Risk, limit: float, delta: float = 0.05) -> int | None:
    """Return how many examples like those seen would keep a promise; None where their mean is not below the limit.

    Like those seen: with the same shares of every value. A plan for the next collection of data, no promise itself.

    Args:
        risk: of the examples seen.
        limit: to promise.
        delta: chance of error.
    """
    if risk.mean >= limit:
        return None
    least, most = 1, risk.n
    while _scaled(risk, most).p_value(limit, delta) > delta:
        least, most = most, 2 * most
        if most > _MOST:
            return None
    while most - least > max(1, most // 100):
        middle = (least + most) // 2
        kept = _scaled(risk, middle).p_value(limit, delta) <= delta
        least, most = (least, middle) if kept else (middle, most)
    return most


def foreseen_p_value(risk: Risk, n: int, limit: float, delta: float = 0.05) -> float:
    """Return the p-value of n examples like those seen: what a test on others may come to, no test itself.

    Args:
        risk: of examples that are not among those.
        n: how many the test will have.
        limit, delta: as in `Risk.p_value`.
    """
    return _scaled(risk, n).p_value(limit, delta)


def _scaled(risk: Risk, n: int) -> Risk:
    """Return a risk of n examples with the values that were seen, as often in proportion, larger ones rounded up."""
    values = np.sort(risk.values)[::-1]
    places = np.minimum((np.arange(n) * (len(values) / n)).astype(np.int64), len(values) - 1)
    return dataclasses.replace(risk, values=values[places])
