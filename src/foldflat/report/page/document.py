"""The report of a sweep as data: everything that the page and the Markdown show, and nothing they work out anew."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from foldflat.report.page.differences import mean_difference, mean_score, relative_drop, scores_of
from foldflat.report.page.summary import summary_of
from foldflat.report.page.words import by_bytes, method_order
from foldflat.report.statistics import REFERENCE, sweep_statistics

__all__ = ["REPORT_FORMAT", "TYPICAL_RATE", "example_row", "paper_rows", "sweep_document"]

REPORT_FORMAT = 1
"""Raised whenever what the JSON of a report holds changes."""

TYPICAL_RATE = 0.4
"""The rate that examples are taken from, or the nearest there is: the paper's first row."""

_SIZES = ("size_bytes_before", "size_bytes_after", "model_size_bytes_before", "model_size_bytes_after")
_PLACE = ("model", "task", "method", "rate", "seed", "epochs", "max_steps")
_FIGURES = ("key", "steps", "train_loss", "learning_rate", "chosen")
_PAPER = (
    {"model": "DistilBERT", "rate": 0.4, "subspaces": "0.5 %", "svd": "2.8 %", "svd_rate": 0.4},
    {"model": "RoBERTa", "rate": 0.43, "subspaces": "below 0.8 %", "svd": "3 %", "svd_rate": 0.4},
)

Rows = list[dict[str, Any]]


def paper_rows() -> Rows:
    """Return the paper's own mean drops over nine GLUE tasks (Maalouf et al., ICLR 2021, arXiv 2010.04290)."""
    return [dict(row) for row in _PAPER]


def sweep_document(
    rows: Rows, *, source: str, grid: str, machines: Rows, commands: dict[str, Any], version: str
) -> dict[str, Any]:
    """Return the report of a sweep.

    Args:
        rows: cells as in results.json.
        source: where they were read, as the user wrote it.
        grid: text of the grid.
        machines: what cells were computed on, see `foldflat.workflow.sweep.reading`.
        commands: how to repeat, see `foldflat.workflow.sweep.commands`.
        version: of foldflat.
    """
    statistics = sweep_statistics(rows)
    groups = [{**group, **_beside(rows, group)} for group in statistics["groups"]]
    sizes = [_size(place, cells) for place, cells in _by_method(rows)]
    return {
        "format": REPORT_FORMAT,
        "foldflat": version,
        "results": source,
        "summary": summary_of(groups, sizes),
        "statistics": {"groups": groups},
        "paper": paper_rows(),
        "sizes": sizes,
        "parts": _parts(rows),
        "bands": [found for place, cells in _by_method(rows) if (found := _bands(place, cells))],
        "subspaces": _subspaces(rows, groups),
        "learning_rates": _learning_rates(rows),
        "machines": machines,
        "grid": grid,
        "commands": commands,
        "cells": [_cell(row) for row in rows],
    }


def example_row(rows: Rows) -> dict[str, Any]:
    """Return the cell that examples are taken from: ours before others, at about 40 %, trained longest, first seed."""

    def order(row: dict[str, Any]) -> tuple[Any, ...]:
        length = row["epochs"] or row["max_steps"] or 0
        away = abs((row["rate"] or 9.0) - TYPICAL_RATE)
        return row["method"] == REFERENCE, method_order(row["method"]), away, -length, row["seed"]

    return min(rows, key=order)


def _beside(rows: Rows, group: dict[str, Any]) -> dict[str, Any]:
    """Add relative drops of tasks, differences of every method to svd, and the mean of the uncompressed model."""
    scores = scores_of(rows, group)
    counted = [task for task, found in group["tasks"].items() if found["counts"]]
    beside = [
        {**row, "relative_drop": relative_drop(scores, (row["method"], row["rate"]), row["task"])}
        for row in group["scores"]
    ]
    drops = [
        {**row, "versus_svd": _versus(scores, row, counted), "mean": mean_score(scores, _pair(row), counted)}
        for row in group["drops"]
    ]
    return {
        "scores": sorted(beside, key=lambda row: (row["task"], row["rate"] or 0.0, method_order(row["method"]))),
        "drops": sorted(drops, key=lambda row: (row["rate"] or 0.0, method_order(row["method"]))),
        "reference": mean_score(scores, (REFERENCE, None), counted) if counted else None,
    }


def _pair(row: dict[str, Any]) -> tuple[str, float | None]:
    return row["method"], row["rate"]


def _versus(scores: Any, row: dict[str, Any], tasks: list[str]) -> dict[str, Any] | None:
    # where one counts bytes and the other parameters, an equal rate is no equal size
    apart = row["method"] == "svd" or by_bytes(row["method"])
    return None if apart else mean_difference(scores, _pair(row), ("svd", row["rate"]), tasks)


def _by_method(rows: Rows) -> Iterator[tuple[dict[str, Any], Rows]]:
    """Yield the cells of each model, method and rate that compress, in the order of the page."""
    found: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        if row["table"]:
            found.setdefault((row["model"], row["method"], row["rate"]), []).append(row)
    for model, method, rate in sorted(found, key=lambda key: (key[0], method_order(key[1]), key[2] or 0.0)):
        yield {"model": model, "method": method, "rate": rate}, found[model, method, rate]


def _spread(values: Iterable[float]) -> dict[str, float]:
    found = list(values)
    return {"mean": sum(found) / len(found), "low": min(found), "high": max(found)}


def _size(place: dict[str, Any], cells: Rows) -> dict[str, Any]:
    """Return bytes over cells, the table's share of the original one, and what the table consists of."""
    tables = [row["table"] for row in cells]
    stored = [row["details"]["stored"] for row in cells if row["details"].get("stored")]
    names = dict.fromkeys(name for item in stored for name in item)
    return {
        **place,
        "cells": len(cells),
        **{name: _spread(table[name] for table in tables) for name in _SIZES},
        "share": _spread(table["size_bytes_after"] / table["size_bytes_before"] for table in tables),
        "parameters_share": _spread(table["parameters_after"] / table["parameters_before"] for table in tables),
        "stored": {name: _spread(item.get(name, 0) for item in stored) for name in names},
    }


def _parts(rows: Rows) -> Rows:
    """Return every part of a model with its bytes before and after, over all cells that say so; largest first."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        for part in row["details"].get("parts", []):
            found.setdefault((row["model"], part["part"]), []).append(part)
    parts = [
        {
            "model": model,
            "part": name,
            "before": _spread(part["before"] for part in own),
            "after": _spread(part["after"] for part in own),
            "changed": any(part["before"] != part["after"] for part in own),
        }
        for (model, name), own in found.items()
    ]
    return sorted(parts, key=lambda part: (part["model"], -part["before"]["mean"], part["part"]))


def _bands(place: dict[str, Any], cells: Rows) -> dict[str, Any] | None:
    """Return the mean over cells of what each band of token frequencies loses; None where no cell says."""
    found: dict[tuple[int, int | None], list[dict[str, Any]]] = {}
    for row in cells:
        for band in row["details"].get("bands", []):
            found.setdefault((band["low"], band["high"]), []).append(band)
    if not found:
        return None
    names = ("tokens", "share", "energy_lost", "cosine")
    bands = [
        {"low": low, "high": high, **{name: _spread(band[name] for band in own) for name in names}}
        for (low, high), own in sorted(found.items(), key=lambda item: item[0][0])
    ]
    return {**place, "cells": sum(bool(row["details"].get("bands")) for row in cells), "bands": bands}


def _subspaces(rows: Rows, groups: Rows) -> Rows:
    """Return examples of which tokens share a subspace: of each model one cell of each family of methods."""
    examples: dict[tuple[str, str], dict[str, Any]] = {}
    counted = {(group["model"], task) for group in groups for task, found in group["tasks"].items() if found["counts"]}
    for row in sorted(rows, key=_example_order(counted)):
        subspaces = row["details"].get("subspaces", [])
        method = row["method"]
        family = method.partition("-")[0] + ("-weighted" if method.endswith("-weighted") else "")
        if len(subspaces) > 1:
            place = {name: row[name] for name in ("model", "task", "method", "rate", "seed")}
            examples.setdefault((row["model"], family), {**place, "subspaces": subspaces})
    return sorted(examples.values(), key=lambda item: (item["model"], method_order(item["method"])))


def _example_order(counted: set[tuple[str, str]]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    def order(row: dict[str, Any]) -> tuple[Any, ...]:
        away = abs((row["rate"] or 9.0) - TYPICAL_RATE)
        return (row["model"], row["task"]) not in counted, away, method_order(row["method"]), row["task"], row["seed"]

    return order


def _learning_rates(rows: Rows) -> Rows:
    """Return how many cells of each model, method and length used which learning rate."""
    counts: dict[tuple[Any, ...], int] = {}
    for row in rows:
        if row["learning_rate"] is not None:
            key = (row["model"], row["method"], row["epochs"], row["max_steps"], row["learning_rate"])
            counts[key] = counts.get(key, 0) + 1
    names = ("model", "method", "epochs", "max_steps", "learning_rate")
    found = [{**dict(zip(names, key, strict=True)), "cells": n} for key, n in counts.items()]
    return sorted(found, key=lambda item: (item["model"], method_order(item["method"]), item["learning_rate"]))


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    figures = {name: row[name] for name in _FIGURES if row.get(name) is not None}
    scores = {name: row["score"][name] for name in ("headline", "metrics", "examples") if name in row["score"]}
    return {**{name: row[name] for name in _PLACE}, **scores, **figures}
