"""Risks of a compressed model: for each example, how much it differs from the original or does worse."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foldflat.certify.bounds import (
    betting_p_value,
    betting_upper_bound,
    binomial_p_value,
    binomial_upper_bound,
)
from foldflat.certify.paired import paired_p_value, paired_upper_bound
from foldflat.errors import DataError, RecipeError

__all__ = [
    "Risk",
    "accuracy_drop",
    "cosine_error",
    "disagreement",
    "loss_increase",
    "neighbours_lost",
    "score_drop",
]


@dataclasses.dataclass(frozen=True)
class Risk:
    """Hold a risk of independent examples, and the bound that fits it, which follows from its kind alone.

    Attributes:
        name: "disagreement", "accuracy drop", ..
        values: (n,) from `low` to `high`.
        low, high: every value that is possible.
        kind: "binomial" for values of 0 and 1, "paired" for -1, 0 and 1, "betting" for others.
    """

    name: str
    values: NDArray[np.float64]
    low: float
    high: float
    kind: str

    @property
    def n(self) -> int:
        """Return the number of examples."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Return the mean over the examples seen."""
        return float(self.values.mean())

    def upper_bound(self, delta: float = 0.05) -> float:
        """Return a number that the mean over all examples exceeds with chance delta at most."""
        if self.kind == "binomial":
            return binomial_upper_bound(self._count(1), self.n, delta)
        if self.kind == "paired":
            return paired_upper_bound(self._count(1), self._count(-1), self.n, delta)
        return betting_upper_bound(self.values, low=self.low, high=self.high, delta=delta)

    def p_value(self, limit: float, delta: float = 0.05) -> float:
        """Return a p-value of the hypothesis that the mean over all examples is at least `limit`.

        Args:
            limit: of the mean.
            delta: level at which the test is best; the p-value holds at every level.
        """
        if self.kind == "binomial":
            return binomial_p_value(self._count(1), self.n, limit)
        if self.kind == "paired":
            return paired_p_value(self._count(1), self._count(-1), self.n, limit, delta=delta)
        return betting_p_value(self.values, limit, low=self.low, high=self.high, delta=delta)

    def _count(self, value: int) -> int:
        return int((self.values == value).sum())


def disagreement(original: ArrayLike, compressed: ArrayLike) -> Risk:
    """Return how often the two models answer differently; needs no labels.

    Args:
        original, compressed: logits (n, classes) of the same examples.

    Raises:
        DataError: other shapes, or logits that are not finite.
    """
    one, other = _logits(original, compressed)
    return Risk("disagreement", (one.argmax(1) != other.argmax(1)).astype(np.float64), 0.0, 1.0, "binomial")


def accuracy_drop(original: ArrayLike, compressed: ArrayLike, labels: ArrayLike) -> Risk:
    """Return right answers of the original minus those of the compressed model, in {-1, 0, 1} for each example.

    Args:
        original, compressed: logits (n, classes) of the same examples.
        labels: (n,) whole numbers of classes.

    Raises:
        DataError: other shapes, logits that are not finite, labels that are no classes.
    """
    one, other = _logits(original, compressed)
    truth = _labels(labels, *one.shape)
    return Risk("accuracy drop", _right(one, truth) - _right(other, truth), -1.0, 1.0, "paired")


def score_drop(original: ArrayLike, compressed: ArrayLike, *, low: float = 0.0, high: float = 1.0) -> Risk:
    """Return the original's score minus the compressed model's, for each example.

    Args:
        original, compressed: scores (n,) of the same examples, more is better.
        low, high: range that every score is in, whatever the example; fixed before the data are seen.

    Raises:
        DataError: other shapes, scores outside the range or not finite.
        RecipeError: an empty range.
    """
    one, other = (_bounded(values, low, high) for values in (original, compressed))
    _same(one, other)
    return Risk("score drop", one - other, low - high, high - low, "betting")


def loss_increase(original: ArrayLike, compressed: ArrayLike, *, high: float) -> Risk:
    """Return the compressed model's loss minus the original's, each cut at `high`, for each example.

    Args:
        original, compressed: losses (n,) of the same examples, 0 or more.
        high: larger losses count as this much; fixed before the data are seen.

    Raises:
        DataError: other shapes, losses below 0 or NaN.
        RecipeError: `high` is not positive.
    """
    one, other = (
        _bounded(np.minimum(np.asarray(v, dtype=np.float64), high), 0.0, high) for v in (original, compressed)
    )
    _same(one, other)
    return Risk("loss increase", other - one, -high, high, "betting")


def cosine_error(original: ArrayLike, compressed: ArrayLike) -> Risk:
    """Return 1 - cosine of the two vectors of each example, in [0, 2].

    Args:
        original, compressed: vectors (n, d), such as sentence embeddings, of the same examples.

    Raises:
        DataError: other shapes, vectors that are not finite or all zero.
    """
    one, other = _pair(original, compressed, "vectors (n, d)")
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    if not norms.all():
        raise DataError(f"the vector of row {int(np.argmin(norms))} is zero, and has no direction\nhint: leave it out")
    return Risk("cosine error", (1 - (one * other).sum(1) / norms).clip(0, 2), 0.0, 2.0, "betting")


def neighbours_lost(original: ArrayLike, compressed: ArrayLike) -> Risk:
    """Return the share of each query's nearest neighbours that the compressed model does not find, in [0, 1].

    The queries are the examples; the collection that is searched belongs to the promise and is the same for both.

    Args:
        original, compressed: numbers (n, k) of the k nearest neighbours of the same queries; their order is of no
            account.

    Raises:
        DataError: other shapes, or a neighbour that is named twice.
    """
    one, other = _pair(original, compressed, "neighbours (n, k)")
    ordered = [np.sort(values, axis=1) for values in (one, other)]
    if any((values[:, 1:] == values[:, :-1]).any() for values in ordered):
        raise DataError("a query has the same neighbour twice\nhint: k different ones")
    kept = np.array([np.isin(mine, theirs, assume_unique=True).mean() for mine, theirs in zip(*ordered, strict=True)])
    return Risk("neighbours lost", 1 - kept, 0.0, 1.0, "betting")


def _logits(original: ArrayLike, compressed: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    one, other = _pair(original, compressed, "logits (n, classes)")
    if one.shape[1] < 2:
        raise DataError("logits of one class have no answer that could differ\nhint: `score_drop` for a regression")
    return one, other


def _pair(original: ArrayLike, compressed: ArrayLike, what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    one: NDArray[np.float64] = np.asarray(original, dtype=np.float64)
    other: NDArray[np.float64] = np.asarray(compressed, dtype=np.float64)
    if one.ndim != 2 or not one.size:
        raise DataError(f"values of shape {one.shape}\nhint: {what}, at least one row")
    _same(one, other)
    for name, values in (("original", one), ("compressed model", other)):
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            raise DataError(
                f"{len(wrong)} of {len(values)} rows of the {name} are NaN or infinite, the first is row {wrong[0]}\n"
                "hint: nothing can be promised of a model that overflows; compute in float32"
            )
    return one, other


def _same(one: NDArray[Any], other: NDArray[Any]) -> None:
    if one.shape != other.shape:
        raise DataError(
            f"the original gives {one.shape}, the compressed model {other.shape}\nhint: the same examples, in one order"
        )


def _labels(labels: ArrayLike, n: int, classes: int) -> NDArray[np.int64]:
    found = np.asarray(labels)
    if found.shape != (n,):
        raise DataError(f"labels of shape {found.shape} for {n} examples\nhint: one label each")
    wrong = np.flatnonzero(~np.isin(found, np.arange(classes)))
    if len(wrong):
        raise DataError(
            f"the label of row {wrong[0]} is {found[wrong[0]]}, the models know classes 0 to {classes - 1}\n"
            "hint: the labels that the models were trained on"
        )
    return found.astype(np.int64)


def _right(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    right: NDArray[np.float64] = (logits.argmax(1) == labels).astype(np.float64)
    return right


def _bounded(values: ArrayLike, low: float, high: float) -> NDArray[np.float64]:
    if not low < high:
        raise RecipeError(f"the range is {low} to {high}\nhint: two numbers, the lower first")
    found: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise DataError(f"values of shape {found.shape}\nhint: (n,), one for each example")
    wrong = np.flatnonzero(~((found >= low) & (found <= high)))
    if len(wrong):
        raise DataError(
            f"the value of row {wrong[0]} is {found[wrong[0]]:g}, outside {low:g} to {high:g}\n"
            "hint: a range that holds every possible value"
        )
    return found
