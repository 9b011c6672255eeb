"""The smallest candidate that can be promised: chosen by some examples, certified by others."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

import foldflat
from foldflat.certify import Risk, early_verdict, example_hash, examples_needed, foreseen_p_value
from foldflat.errors import BudgetError, RecipeError
from foldflat.pipeline import Result
from foldflat.workflow.certificates.promise import Examples, Promise, drawn, known_risk
from foldflat.workflow.certificates.stages import measure_in_stages
from foldflat.workflow.certificates.testing import (
    KEPT_FOR_LARGER,
    Family,
    Original,
    Outcome,
    certificate,
    price,
    require_enough,
    run_test,
)
from foldflat.workflow.certificates.words import search_in_words

__all__ = ["CertifiedSearch", "Ladder", "search"]

_LARGER = 3
# fewer than where a test is given up: a plan that is wrong costs a pass, no promise
_DEVIATIONS = 1.0


class Ladder:
    """Hold candidates, ever smaller, and make those that are asked for, once.

    Args:
        names: in the order of their sizes, the largest first.
        make: returns a candidate; raises BudgetError for one that there cannot be.
        described: JSON values that all candidates follow from, beside the original and the versions of libraries:
            contents, not names of files.
    """

    def __init__(self, names: Sequence[str], make: Callable[[str], Result], described: dict[str, Any]) -> None:
        if not names:
            raise RecipeError("no candidates\nhint: at least one")
        self.names, self.described = list(names), described
        self.make = functools.cache(make)

    def model(self, name: str) -> Any:
        """Return a candidate's model."""
        return self.make(name).model


@dataclasses.dataclass(frozen=True)
class Planned:
    """Hold what examples to plan with said of a candidate.

    Attributes:
        name: of the candidate.
        mean: risk on the examples to plan with; None where the candidate cannot be made.
        p_value: foreseen for the test.
        examples: on which it was measured, until they told on which side of the level it is.
    """

    name: str
    mean: float | None
    p_value: float
    examples: int


@dataclasses.dataclass(frozen=True)
class CertifiedSearch:
    """Hold the candidate that was chosen, if any can be promised, and what was found on the way.

    Attributes:
        chosen: name and result; None for none.
        report: JSON values: `candidates`, `planned`, `tested`, `chosen`, `certificate`, `examples_for_next`, `words`.
    """

    chosen: tuple[str, Result] | None
    report: dict[str, Any]


def search(
    original: Original,
    ladder: Ladder,
    planning: Examples,
    examples: Examples,
    promise: Promise,
    *,
    plan_examples: int = 2000,
    seed: int = 0,
    progress: bool = False,
    watch: Callable[[str], None] | None = None,
) -> CertifiedSearch:
    """Find the smallest candidate whose risk can be promised to be below a limit.

    Examples to plan with choose where to begin, by bisection: with the smallest candidate that they foresee to pass
    at what earlier uses of the other examples leave of the chance of error; each is measured on as many of them as it
    takes to tell. From there candidates are tested, ever smaller, on those other examples, each at
    one level, up to the first that fails; if that is the first of all, three larger ones likewise, for which a quarter
    of the chance of error was kept. So few candidates are made and fewer tested, and the promise holds for the search
    as a whole.

    Source: fixed-sequence testing, Angelopoulos et al., "Learn then Test", 2021; an order from data of its own,
    Laufer-Goldshtein et al., "Efficiently controlling multiple risks with Pareto testing", ICLR 2023.

    Args:
        original: what candidates are compared with.
        ladder: the candidates.
        planning: examples to plan with; those that are among the others are left out.
        examples: to certify with.
        promise: what is to be shown.
        plan_examples: how many to plan with, drawn at random.
        seed: of that draw.
        progress: show bars.
        watch: called with a line of progress.

    Raises:
        DataError: the same examples for both; too few; see `run_test`.
    """
    say = watch or (lambda _: None)
    risk = known_risk(examples, promise)
    plan_with, left_out = drawn(planning, examples, plan_examples, seed)
    say("Planning: the original")
    reference = plan_with.outputs(original.model, progress=progress)
    described = {
        "versions": {"foldflat": foldflat.__version__, "torch": torch.__version__},
        "ladder": ladder.described,
        "candidates": ladder.names,
        "planning": sorted(plan_with.hashes),
        "limit": promise.limit,
        "confidence": promise.confidence,
    }
    fingerprint = example_hash(json.dumps(described, sort_keys=True))
    spent = price(original, fingerprint, examples, promise)
    delta = promise.delta / spent.choices
    require_enough(plan_with.measure(risk, reference, reference), len(examples.hashes), promise, spent)
    level = delta * (1 - KEPT_FOR_LARGER)
    plan = _Plan(ladder, plan_with, reference, risk, len(examples.hashes), promise.limit, level, progress, say)
    start = max(0, _last(ladder.names, plan.foresees))
    names = ladder.names[start:]
    say(f"Certifying from {names[0]}")
    larger = ladder.names[max(0, start - _LARGER) : start]
    family = Family(names, ladder.model, fingerprint, larger)
    outcome = run_test(original, family, examples, promise, progress=progress)
    from_where = {key: value for key, value in plan_with.about.items() if key != "repeated"}  # which is of all of them
    report = {
        "candidates": ladder.names,
        "planned": [dataclasses.asdict(plan.found[name]) for name in ladder.names if name in plan.found],
        "planned_with": {**from_where, "examples": len(plan_with.hashes), "left_out": left_out},
        **_found(outcome, ladder.names),
        "certificate": certificate(original, examples, promise, outcome, among=len(names) + len(larger)),
    }
    chosen = outcome.deciding.chosen
    report["certificate"]["search"] = {key: report[key] for key in ("candidates", "planned_with", "tested", "chosen")}
    report["words"] = search_in_words(report)
    return CertifiedSearch(None if chosen is None else (chosen, ladder.make(chosen)), report)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Measure candidates on examples to plan with, each on as many as it takes to tell whether it will pass.

    Attributes:
        ladder: the candidates.
        examples: to plan with.
        reference: what the original gives for them.
        risk: its name.
        n: how many examples the test will have.
        limit, delta: of the promise, and at what level it will be tested.
        progress, say: how to tell.
        found: what each came to.
    """

    ladder: Ladder
    examples: Examples
    reference: NDArray[Any]
    risk: str
    n: int
    limit: float
    delta: float
    progress: bool
    say: Callable[[str], None]
    found: dict[str, Planned] = dataclasses.field(default_factory=dict)

    def foresees(self, name: str) -> bool:
        """Return whether a candidate will pass."""
        self.say(f"Planning: {name}")
        try:
            model = self.ladder.model(name)
        except BudgetError:
            self.found[name] = Planned(name, None, 1.0, 0)
            return False
        seen = measure_in_stages(
            self.examples,
            self.risk,
            self.reference,
            model,
            lambda part: self._verdict(part) is not None,
            progress=self.progress,
        )
        self.found[name] = Planned(name, seen.mean, self._p_value(seen, self.limit), seen.n)
        return bool(self._verdict(seen))

    def _verdict(self, seen: Risk) -> bool | None:
        return early_verdict(
            seen,
            len(self.examples.hashes),
            self.limit,
            lambda limit: self._p_value(seen, limit) <= self.delta,
            deviations=_DEVIATIONS,
        )

    def _p_value(self, seen: Risk, limit: float) -> float:
        return foreseen_p_value(seen, self.n, limit, self.delta)


def _last(names: Sequence[str], holds: Callable[[str], bool]) -> int:
    """Return the last position that holds, by bisection, -1 for none; exact where none holds behind one that fails."""
    low, high = -1, len(names)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(names[middle]) else (low, middle)
    return low


def _found(outcome: Outcome, names: Sequence[str]) -> dict[str, Any]:
    """Return every candidate that was tested, in the order of the sizes, and what the next smaller one would take."""
    chosen = outcome.deciding.chosen
    tested = sorted(
        ((one, found.delta) for found in outcome.sequences for one in found.tested),
        key=lambda pair: names.index(pair[0].name),
    )
    behind = 0 if chosen is None else names.index(chosen) + 1
    failed = next((pair for pair in tested if not pair[0].promised and names.index(pair[0].name) >= behind), None)
    more = None if failed is None else examples_needed(failed[0].risk, outcome.deciding.limit, failed[1])
    rows = [
        {
            "name": one.name,
            "mean": one.risk.mean,
            "examples": one.risk.n,
            "p_value": one.p_value,
            "level": level,
            "promised": one.promised,
        }
        for one, level in tested
    ]
    return {"tested": rows, "chosen": chosen, "examples_for_next": more}
