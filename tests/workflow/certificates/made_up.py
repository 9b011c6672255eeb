"""Examples and models without networks: a model of rate r answers otherwise where the luck of an example is below r."""

import contextlib
import dataclasses
import sqlite3
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foldflat.certify import Risk, disagreement, example_hash
from foldflat.errors import BudgetError
from foldflat.pipeline import Result
from foldflat.workflow.certificates import CertifiedSearch, Ladder, Promise, search
from foldflat.workflow.certificates.testing import Original

__all__ = ["Lucky", "lucky", "searched", "uses"]


@dataclasses.dataclass(frozen=True)
class Lucky:
    """Hold examples with luck in [0, 1); see `foldflat.workflow.certificates.promise.Examples`.

    Parts share the list of passes with the whole.
    """

    luck: NDArray[np.float64]
    hashes: list[str]
    risks: tuple[str, ...] = ("disagreement",)
    passes: list[tuple[float, int]] = dataclasses.field(default_factory=list)

    @property
    def about(self) -> dict[str, Any]:
        """Return where they are from."""
        return {"split": "made up"}

    def part(self, positions: list[int]) -> Self:
        """Return some of them."""
        return dataclasses.replace(self, luck=self.luck[positions], hashes=[self.hashes[i] for i in positions])

    def outputs(self, model: float, *, progress: bool = False) -> NDArray[Any]:  # noqa: ARG002
        """Return logits (n, 2); note which model was run on how many."""
        self.passes.append((model, len(self.luck)))
        return np.stack([self.luck >= model, self.luck < model], axis=1).astype(np.float64)

    def measure(self, risk: str, original: NDArray[Any], compressed: NDArray[Any]) -> Risk:
        """Return the share of other answers."""
        assert risk == "disagreement"
        return disagreement(original, compressed)


def lucky(n: int, seed: int, first: int = 0) -> Lucky:
    """Draw n examples, numbered from `first`."""
    return Lucky(np.random.default_rng(seed).random(n), [example_hash(str(first + i)) for i in range(n)])


def searched(
    rates: dict[str, float | None],
    planning: Lucky,
    examples: Lucky,
    ledger: Path,
    *,
    limit: float = 0.05,
    made: list[str] | None = None,
    described: str = "made up",
) -> CertifiedSearch:
    """Search among models of these rates, None for one that cannot be made; `made` notes those that are."""

    def make(name: str) -> Result:
        if made is not None:
            made.append(name)
        rate = rates[name]
        if rate is None:
            raise BudgetError("too small")
        return Result(rate, None, {})  # type: ignore[arg-type]

    ladder = Ladder(list(rates), make, {"recipe": described})
    promise = Promise(limit, ledger=ledger)
    return search(Original("original", 0.0, "abc"), ladder, planning, examples, promise)


def uses(ledger: Path) -> int:
    """Return how many uses a ledger holds."""
    with contextlib.closing(sqlite3.connect(ledger)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM uses").fetchone()[0])
