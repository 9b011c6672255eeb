"""Paired statistics of a sweep: every method against the uncompressed model, seed by seed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["REFERENCE", "interval", "interval_over_tasks", "sweep_statistics"]

REFERENCE = "none"
_OURS, _RIVAL = "ours", "svd"
_CONFIDENCE = 0.95

Row = Mapping[str, Any]
Scores = dict[str, dict[int, Row]]
"""The rows of one length and one model, by task and seed."""


def interval(values: Iterable[float]) -> dict[str, Any]:
    """Return mean, standard deviation (n - 1) and 95 % t-interval of the mean; the latter two None below two values.

    Args:
        values: at least one, from independent seeds.
    """
    return interval_over_tasks([list(values)])


def interval_over_tasks(values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the mean over tasks of what seeds came to, its standard deviation over seeds, and its 95 % interval.

    The deviation is that of the mean of one seed. The interval takes tasks as independent of one another, so that it
    does not cover what a seed does to all of them alike; how much seeds of a task differ may depend on the task, so
    degrees of freedom are those of Welch and Satterthwaite. Of one task it is Student's interval. Both are None where
    tasks have a single seed.

    Source: Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics Bulletin 1946.

    Args:
        values: (tasks, seeds), at least one of each.
    """
    from scipy.stats import t

    found = np.asarray(values, dtype=np.float64)
    (tasks, n), mean = found.shape, float(found.mean())
    if n < 2:
        return {"n": n, "mean": mean, "deviation": None, "low": None, "high": None}
    deviation = float(found.mean(axis=0).std(ddof=1))
    variances = found.var(axis=1, ddof=1)
    error = math.sqrt(variances.sum() / n) / tasks
    # shares of the largest, whose squares do not vanish; where all are 0 so is the half width, whatever the freedom
    shares = variances / (variances.max() or 1.0)
    freedom = float((n - 1) * shares.sum() ** 2 / np.square(shares).sum()) if error else n - 1
    half = float(t.ppf((1 + _CONFIDENCE) / 2, freedom)) * error
    return {"n": n, "mean": mean, "deviation": deviation, "low": mean - half, "high": mean + half}


def sweep_statistics(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the statistics of the cells of a sweep, for each model and length of fine-tuning.

    Scores are the headline metric of each task; a difference is that of one seed, so that methods are compared from
    the same parent and the same batches.

    Args:
        rows: cells as in results.json: model, task, method, rate, seed, epochs, max_steps, score.

    Returns:
        `groups`, each with `model`, `epochs`, `max_steps`, and
        `tasks`: which of them count, and why not: a task does where the uncompressed model (`none`, trained as long),
        in the mean of its seeds, beats the majority class by two standard errors (binomial); a regression where its
        correlation exceeds two standard errors of none, 1 / sqrt(n - 1);
        `scores`: of each task, method and rate, the score's interval, that of the difference to `none`, and of `ours`
        that of the difference to `svd`; None without a common seed;
        `drops`: of each method and rate the mean over the tasks that count of the drop, absolute and as a share of the
        uncompressed model's score (the paper's "accuracy drop"), paired by seed, over the seeds that all these tasks
        have; `missing` names the tasks that have none, and then there is no mean; `versus_svd` is the mean over tasks
        of the difference of `ours` to `svd`.
    """
    groups = []
    keys = sorted({(row["model"], row["epochs"] or 0, row["max_steps"] or 0) for row in rows})
    for model, epochs, steps in keys:
        own = [
            row for row in rows if (row["model"], row["epochs"] or 0, row["max_steps"] or 0) == (model, epochs, steps)
        ]
        length = {name: own[0][name] for name in ("epochs", "max_steps")}
        groups.append({"model": model, **length, **_group(own)})
    return {"groups": groups}


def _group(rows: list[dict[str, Any]]) -> dict[str, Any]:
    methods = sorted({(row["method"], row["rate"]) for row in rows}, key=lambda pair: (pair[1] or 0.0, pair[0]))
    by_method = {pair: _by_task(row for row in rows if (row["method"], row["rate"]) == pair) for pair in methods}
    reference = by_method.get((REFERENCE, None), {})
    tasks = {task: _counts(reference.get(task, {})) for task in sorted({row["task"] for row in rows})}
    counted = [task for task, found in tasks.items() if found["counts"]]
    scores, drops = [], []
    for (method, rate), own in by_method.items():
        place = {"method": method, "rate": rate}
        rival = by_method.get((_RIVAL, rate), {}) if method == _OURS else {}
        for task in own:
            paired = _paired(own, reference, task), _paired(own, rival, task)
            to_none, to_svd = (interval(a - b for a, b in pairs.values()) if pairs else None for pairs in paired)
            score = interval(_value(row) for row in own[task].values())
            scores.append({"task": task, **place, "score": score, "to_none": to_none, "to_svd": to_svd})
        if method != REFERENCE and counted:
            drops.append({**place, **_drop(own, reference, rival, counted)})
    scores.sort(key=lambda row: row["task"])
    return {"tasks": tasks, "scores": scores, "drops": drops}


def _by_task(rows: Iterable[Row]) -> Scores:
    found: Scores = {}
    for row in rows:
        found.setdefault(row["task"], {})[row["seed"]] = row
    return found


def _value(row: Row) -> float:
    return float(row["score"]["headline"]["value"])


def _counts(reference: dict[int, Row]) -> dict[str, Any]:
    """Say whether a task counts, by what the uncompressed model reaches and by what it has to exceed."""
    if not reference:
        return {"counts": False, "reached": None, "threshold": None, "reason": "no uncompressed model"}
    scores = [row["score"] for row in reference.values()]
    n, majority = scores[0]["examples"], scores[0]["majority_baseline"]
    if majority is None:
        reached = float(np.mean([score["headline"]["value"] for score in scores]))
        threshold = 2 / math.sqrt(max(1, n - 1))
    else:
        reached = float(np.mean([score["accuracy"] for score in scores]))
        threshold = majority + 2 * math.sqrt(majority * (1 - majority) / n)
    counts = reached > threshold
    return {"counts": counts, "reached": reached, "threshold": threshold, "reason": None if counts else "not learned"}


def _paired(one: Scores, other: Scores, task: str) -> dict[int, tuple[float, float]]:
    """Return the scores of two methods by seed, of the seeds that both have."""
    first, second = one.get(task, {}), other.get(task, {})
    return {seed: (_value(first[seed]), _value(second[seed])) for seed in sorted(first.keys() & second.keys())}


def _drop(own: Scores, reference: Scores, rival: Scores, tasks: list[str]) -> dict[str, Any]:
    pairs = {task: _paired(own, reference, task) for task in tasks}
    missing = [task for task in tasks if not pairs[task]]
    against = {task: _paired(own, rival, task) for task in tasks}
    none_is_positive = all(none > 0 for found in pairs.values() for _, none in found.values())
    return {
        "missing": missing,
        "absolute": _over_tasks(pairs, lambda score, none: none - score),
        "relative": _over_tasks(pairs, lambda score, none: (none - score) / none) if none_is_positive else None,
        "versus_svd": _over_tasks(against, lambda score, svd: score - svd),
    }


def _over_tasks(pairs: dict[str, dict[int, tuple[float, float]]], of: Any) -> dict[str, Any] | None:
    """Return the interval, over the seeds that all tasks have, of the mean over tasks."""
    seeds = sorted(set.intersection(*(set(found) for found in pairs.values())))
    return interval_over_tasks([[of(*found[seed]) for seed in seeds] for found in pairs.values()]) if seeds else None
