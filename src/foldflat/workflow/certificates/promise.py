"""What is promised about a compressed model, and on what kind of examples."""

import os
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from foldflat.certify import Risk
from foldflat.errors import DataError, RecipeError

__all__ = ["Examples", "Promise", "different", "drawn", "known_risk", "repeats"]


@dataclass(frozen=True)
class Promise:
    """Say that the mean of a risk is below a limit.

    Attributes:
        limit: of the mean risk, such as 0.005 for half a point of accuracy.
        confidence: 1 - delta.
        risk: its name, see `Examples.risks`; None for the first of these.
        ledger: file that counts uses of examples; default in the user's state folder.

    Raises:
        RecipeError: a limit or confidence out of range.
    """

    limit: float
    confidence: float = 0.95
    risk: str | None = None
    ledger: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise RecipeError(f"the limit is {self.limit}\nhint: above 0 and below 1; 0.005 is half a point")
        if not 0.5 <= self.confidence < 1:
            raise RecipeError(f"the confidence is {self.confidence}\nhint: from 0.5, below 1; 0.95 is usual")

    @property
    def delta(self) -> float:
        """Return the chance of error."""
        return 1 - self.confidence


class Examples(Protocol):
    """Hold different examples on which two models are compared."""

    @property
    def risks(self) -> tuple[str, ...]:
        """Return the names of the risks that can be measured on them."""

    @property
    def about(self) -> dict[str, Any]:
        """Return where they are from, as JSON values."""

    @property
    def hashes(self) -> list[str]:
        """Return one hash for each example, see `foldflat.certify.example_hash`."""

    def part(self, positions: list[int]) -> Self:
        """Return some of the examples."""

    def outputs(self, model: Any, *, progress: bool = False) -> NDArray[Any]:
        """Return what a model gives for each example (n, ..): one pass over the data."""

    def measure(self, risk: str, original: NDArray[Any], compressed: NDArray[Any]) -> Risk:
        """Return a risk, from the outputs (n, ..) of both models."""


def known_risk(examples: Examples, promise: Promise) -> str:
    """Return the name of the risk that is promised.

    Raises:
        RecipeError: it cannot be measured on such examples.
    """
    if promise.risk is None:
        return examples.risks[0]
    if promise.risk not in examples.risks:
        raise RecipeError(f"unknown risk {promise.risk!r} of such examples\nhint: {' or '.join(examples.risks)}")
    return promise.risk


def different(hashes: list[str]) -> list[int]:
    """Return the positions of the examples that are not the same as an earlier one."""
    first: dict[str, int] = {}
    for i, found in enumerate(hashes):
        first.setdefault(found, i)
    return list(first.values())


def repeats(hashes: list[str]) -> dict[str, int]:
    """Return how many examples repeat another, as part of what is said about them; nothing where none does."""
    count = len(hashes) - len(set(hashes))
    return {"repeated": count} if count else {}


def drawn(planning: Examples, certifying: Examples, most: int, seed: int) -> tuple[Examples, int]:
    """Return examples to plan with, of which none is among those to certify with, and how many were left out for that.

    Args:
        planning: to draw from.
        certifying: which they must not be.
        most: how many to draw.
        seed: of the draw.

    Raises:
        DataError: all of them are the same: candidates would be chosen by the examples that certify them.
        RecipeError: fewer than one is to be drawn.
    """
    if most < 1:
        raise RecipeError(f"{most} examples to plan with\nhint: at least 1, some thousand for a close choice")
    taken = set(certifying.hashes)
    free = [i for i, found in enumerate(planning.hashes) if found not in taken]
    if not free:
        raise DataError(
            f"all {len(planning.hashes)} examples to plan with are among those to certify with\n"
            "hint: another split or file: who chooses by examples cannot promise on the same"
        )
    order = np.random.default_rng(seed).permutation(len(free))[:most]
    return planning.part([free[i] for i in sorted(order)]), len(planning.hashes) - len(free)
