"""What the page shows beside the statistics of a sweep, paired by seed in the same way."""

from collections.abc import Iterable
from typing import Any

from foldflat.report.statistics import REFERENCE, interval, interval_over_tasks

__all__ = ["Scores", "complete_drops", "mean_difference", "mean_score", "relative_drop", "scores_of"]

Scores = dict[tuple[str, float | None], dict[str, dict[int, float]]]
"""Headline metrics of one model and length: (method, rate) -> task -> seed -> value."""


def scores_of(rows: Iterable[dict[str, Any]], group: dict[str, Any]) -> Scores:
    """Return the headline metrics of a group of the statistics."""
    found: Scores = {}
    for row in rows:
        if all((row[name] or 0) == (group[name] or 0) for name in ("model", "epochs", "max_steps")):
            tasks = found.setdefault((row["method"], row["rate"]), {})
            tasks.setdefault(row["task"], {})[row["seed"]] = float(row["score"]["headline"]["value"])
    return found


def relative_drop(scores: Scores, method: tuple[str, float | None], task: str) -> dict[str, Any] | None:
    """Return the interval of (none - score) / none over the seeds that both have; None without any, or none <= 0."""
    own, none = scores.get(method, {}).get(task, {}), scores.get((REFERENCE, None), {}).get(task, {})
    seeds = sorted(own.keys() & none.keys())
    if not seeds or any(none[seed] <= 0 for seed in seeds):
        return None
    return interval((none[seed] - own[seed]) / none[seed] for seed in seeds)


def mean_score(scores: Scores, method: tuple[str, float | None], tasks: list[str]) -> dict[str, Any] | None:
    """Return the interval over common seeds of the mean over tasks."""
    own = scores.get(method, {})
    return _over_seeds([own.get(task, {}) for task in tasks])


def mean_difference(
    scores: Scores, one: tuple[str, float | None], other: tuple[str, float | None], tasks: list[str]
) -> dict[str, Any] | None:
    """Return the interval over common seeds of the mean over tasks of one method's score minus another's."""
    own, rival = (scores.get(method, {}) for method in (one, other))
    return _over_seeds([_minus(own.get(task, {}), rival.get(task, {})) for task in tasks])


def complete_drops(drops: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean drops that may be compared: of all tasks that count, over as many seeds as any has."""
    found = [row for row in drops if not row["missing"] and row["absolute"] is not None]
    most = max((row["absolute"]["n"] for row in found), default=0)
    return [row for row in found if row["absolute"]["n"] == most]


def _minus(one: dict[int, float], other: dict[int, float]) -> dict[int, float]:
    return {seed: one[seed] - other[seed] for seed in one.keys() & other.keys()}


def _over_seeds(tasks: list[dict[int, float]]) -> dict[str, Any] | None:
    seeds = sorted(set.intersection(*map(set, tasks))) if tasks else []
    return interval_over_tasks([[task[seed] for seed in seeds] for task in tasks]) if seeds else None
