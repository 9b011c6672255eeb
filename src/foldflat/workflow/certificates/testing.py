"""Test candidates against their original on held-out examples, once, and say what was found."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldflat.certify import (
    Certification,
    Ledger,
    Risk,
    Spent,
    certify,
    early_verdict,
    example_hash,
    examples_needed,
    foreseen_p_value,
)
from foldflat.errors import BudgetError, DataError
from foldflat.workflow.certificates.promise import Examples, Promise, known_risk
from foldflat.workflow.certificates.stages import measure_in_stages
from foldflat.workflow.certificates.words import in_words

__all__ = ["KEPT_FOR_LARGER", "Family", "Original", "certificate", "price", "require_enough", "run_test"]

_FORMAT = 2
KEPT_FOR_LARGER = 0.25


@dataclasses.dataclass(frozen=True)
class Original:
    """Hold what candidates are compared with: its name, its model and the fingerprint of its weights."""

    name: str
    model: Any
    sha256: str


@dataclasses.dataclass(frozen=True)
class Family:
    """Say what is tested.

    Attributes:
        names: of candidates, ever smaller, in the order of the test, which must not follow from its examples.
        model: returns a candidate's model; raises BudgetError for one that there cannot be.
        fingerprint: of all that candidates and order follow from.
        larger: candidates to fall back on where the first of `names` fails, ever smaller, all larger than that.
    """

    names: Sequence[str]
    model: Callable[[str], Any]
    fingerprint: str
    larger: Sequence[str] = ()

    @property
    def outcomes(self) -> int:
        """Return in how many ways a test may end."""
        return len(self.names) + len(self.larger) + 1


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Hold what a test found.

    Attributes:
        sequences: what each found, in the order of the test: the candidates, and those to fall back on.
        delta: chance of error of all together.
        earlier_uses: how often examples had been used before.
    """

    sequences: tuple[Certification, ...]
    delta: float
    earlier_uses: int

    @property
    def deciding(self) -> Certification:
        """Return the sequence that chose a candidate, the first where none did."""
        return next((found for found in self.sequences if found.chosen is not None), self.sequences[0])


def run_test(
    original: Original,
    family: Family,
    examples: Examples,
    promise: Promise,
    *,
    progress: bool = False,
) -> Outcome:
    """Test candidates in turn, each by one pass over the examples, up to the first that cannot be promised.

    The pass of a candidate that the examples left can hardly save is given up; not that of the first, which the
    certificate is about where nothing can be promised.

    Where there are larger ones to fall back on, a quarter of the chance of error is kept for them; they are tested in
    turn likewise if the first candidate fails. The chance that any promise is wrong is at most that of both sequences.

    Where the ledger knows of earlier uses of any of the examples for the same original, the chance of error is divided
    by the number of ways in which those may have ended.

    Args:
        original: what they are compared with.
        family: the candidates.
        examples: held out of all that made models, candidates and their order.
        promise: what is to be shown.
        progress: show bars.

    Raises:
        RecipeError: a risk that such examples do not have.
        DataError: too few examples for any promise; labels or outputs that cannot be; before any is spent, where the
            original shows it.
    """
    risk = known_risk(examples, promise)
    reference = examples.outputs(original.model, progress=progress)
    unharmed = examples.measure(risk, reference, reference)
    require_enough(unharmed, unharmed.n, promise, price(original, family.fingerprint, examples, promise))
    # before any candidate is measured, so that an interrupted run has spent the examples too
    spent = Ledger(promise.ledger).spend(
        original.sha256,
        _question(family.fingerprint, examples, promise),
        examples.hashes,
        outcomes=family.outcomes,
    )

    def sequence(names: Sequence[str], delta: float) -> Certification:
        is_lost = functools.partial(_is_lost, n=unharmed.n, limit=promise.limit, delta=delta)

        def measure(name: str) -> Risk:
            try:
                model = family.model(name)
            except BudgetError:
                return dataclasses.replace(unharmed, values=np.full(unharmed.n, unharmed.high))
            if name == family.names[0]:
                return examples.measure(risk, reference, examples.outputs(model, progress=progress))
            return measure_in_stages(examples, risk, reference, model, is_lost, progress=progress)

        return certify(names, measure, promise.limit, delta=delta, n=unharmed.n)

    delta = promise.delta / spent.choices
    kept = KEPT_FOR_LARGER if family.larger else 0.0
    sequences = [sequence(family.names, delta * (1 - kept))]
    if family.larger and sequences[0].chosen is None:
        sequences.append(sequence(family.larger, delta * kept))
    return Outcome(tuple(sequences), delta, spent.earlier)


def _is_lost(seen: Risk, n: int, limit: float, delta: float) -> bool:
    """Return whether a test of n examples will hardly pass, after those seen."""
    return early_verdict(seen, n, limit, lambda at: foreseen_p_value(seen, n, at, delta) <= delta) is False


def price(original: Original, fingerprint: str, examples: Examples, promise: Promise) -> Spent:
    """Return what examples were used for before they answer a question; nothing is written down.

    Args:
        original, examples, promise: as in `run_test`.
        fingerprint: of a family.
    """
    asked = _question(fingerprint, examples, promise)
    return Ledger(promise.ledger).price(original.sha256, asked, examples.hashes)


def _question(fingerprint: str, examples: Examples, promise: Promise) -> str:
    """Return what identifies a use: another limit is answered by the same bound, another risk or collection is not."""
    return example_hash(fingerprint, known_risk(examples, promise), examples.about.get("collection_sha256", ""))


def certificate(
    original: Original, examples: Examples, promise: Promise, outcome: Outcome, *, among: int = 1
) -> dict[str, Any]:
    """Return what was found of the candidate that is promised, or of the first where none is, as JSON values.

    `among` is the number of candidates that might have been promised.
    """
    found = outcome.deciding
    tested = next((one for one in reversed(found.tested) if one.promised), found.tested[0])
    made = {
        "format": _FORMAT,
        "promised": tested.promised,
        "risk": tested.risk.name,
        "limit": promise.limit,
        "confidence": promise.confidence,
        "examples": tested.risk.n,
        "mean": tested.risk.mean,
        # of one that was chosen among several nothing is shown beyond the limit
        "bound": promise.limit if tested.promised and among > 1 else tested.risk.upper_bound(found.delta),
        "p_value": tested.p_value,
        "delta": outcome.delta,
        "earlier_uses": outcome.earlier_uses,
        "examples_needed": None if tested.promised else examples_needed(tested.risk, promise.limit, found.delta),
        "examples_for_half": examples_needed(tested.risk, promise.limit / 2, found.delta) if tested.promised else None,
        "data": {**examples.about, "examples": tested.risk.n, "sha256": example_hash(*sorted(examples.hashes))},
        "original": {"name": Path(original.name).name, "weights": original.sha256},
    }
    return {**made, "words": in_words(made)}


def require_enough(unharmed: Risk, n: int, promise: Promise, spent: Spent) -> None:
    """Raise DataError where not even models that always agree, on n examples, could be promised anything.

    Args:
        unharmed: the risk of a model against itself.
        n: how many examples there are to certify with.
        promise: what is to be shown.
        spent: what they were used for before.
    """
    delta = promise.delta / spent.choices
    if foreseen_p_value(unharmed, n, promise.limit, delta) > delta:
        used = f", used {spent.earlier} times before," if spent.earlier else ""
        raise DataError(
            f"{n} examples{used} are too few to promise {promise.limit:g} at {promise.confidence:g} confidence: if "
            f"nothing changed at all, {examples_needed(unharmed, promise.limit, delta)} would be needed\n"
            f"hint: {'other' if spent.earlier else 'more'} examples, or a promise of less"
        )
