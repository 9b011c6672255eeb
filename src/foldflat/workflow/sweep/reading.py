"""Read what a sweep left: results.json, and what its cells were computed on."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, NoReturn

from foldflat.errors import CheckpointError, DataError, FormatVersionError, ModelNotFoundError
from foldflat.randomness import spawn_seeds
from foldflat.report.statistics import REFERENCE
from foldflat.workflow.sweep.jobs import CELL_FORMAT, SIZES

__all__ = ["SweepResults", "parent_learning_rate", "read_results"]

_FILE = "results.json"
_PLACE: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "task": (str,),
    "method": (str,),
    "rate": (int, float, type(None)),
    "seed": (int,),
    "epochs": (int, float, type(None)),
    "max_steps": (int, type(None)),
    "table": (dict,),
    "score": (dict,),
}
_SCORE: dict[str, tuple[type, ...]] = {
    "headline": (dict,),
    "examples": (int,),
    "accuracy": (int, float, type(None)),
    "majority_baseline": (int, float, type(None)),
}
_MACHINE = ("processor", "device", "threads", "foldflat", "torch", "transformers", "python")


@dataclasses.dataclass(frozen=True)
class SweepResults:
    """Hold what a sweep left.

    Attributes:
        file: results.json.
        grid: text of the grid, "" where the file has none.
        rows: its cells; `details` is {} and `learning_rate` None where a cell has none.
        machines: what cells were computed on, with how many, and the sum of their seconds; [] for a file on its own.
    """

    file: Path
    grid: str
    rows: list[dict[str, Any]]
    machines: list[dict[str, Any]]


def read_results(path: str | os.PathLike[str]) -> SweepResults:
    """Read the results of a sweep.

    Args:
        path: its folder, or results.json.

    Raises:
        ModelNotFoundError: there is no such folder, or no results.json in it.
        FormatVersionError: they were written by another foldflat.
        CheckpointError: the file is damaged.
        DataError: no cell is finished, or none that compresses.
    """
    file = _file(Path(path))
    values = _json(file, "run the sweep again; it computes no finished cell twice")
    found = values.get("format")
    if found != CELL_FORMAT:
        raise FormatVersionError(
            f"{file} is of format {found}, this foldflat reads format {CELL_FORMAT}\n"
            "hint: run the sweep with this foldflat into a new folder, or install the one that wrote this"
        )
    cells, grid = values.get("cells"), values.get("grid", "")
    if not isinstance(cells, list) or not isinstance(grid, str):
        _damaged(file, "it has no list of cells, or the grid is no text")
    rows = [_row(file, i, cell) for i, cell in enumerate(cells)]
    _check(file, rows)
    return SweepResults(file, grid, rows, _machines(file.parent / "cells", rows))


def _file(path: Path) -> Path:
    if not path.exists():
        raise ModelNotFoundError(
            f"no results in {str(path)!r}: there is no such file or folder\nhint: give the folder "
            "that `foldflat sweep GRID.yaml -o FOLDER` wrote"
        )
    file = path / _FILE if path.is_dir() else path
    if not file.is_file():
        raise ModelNotFoundError(
            f"{str(path)!r} has no {_FILE}\nhint: `foldflat sweep GRID.yaml -o {path}` writes it with the first cell "
            "that is finished"
        )
    return file


def _json(file: Path, hint: str) -> dict[str, Any]:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number")

    try:
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error})\nhint: {hint}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} is damaged: it holds no object\nhint: {hint}")
    return values


def _damaged(file: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{file} is damaged: {what}\nhint: run the sweep again; it computes no finished cell twice")


def _row(file: Path, i: int, cell: Any) -> dict[str, Any]:
    """Return a cell once all that the report needs of it is there."""
    name = f"cell {i + 1}"
    _require(file, name, cell, _PLACE)
    _require(file, f"the score of {name}", cell["score"], _SCORE)
    value = cell["score"]["headline"].get("value")
    if not isinstance(value, int | float) or not math.isfinite(value):
        _damaged(file, f"the score of {name} is {value!r}")
    if (cell["table"] == {}) != (cell["method"] == REFERENCE):
        _damaged(file, f"{name} is of method {cell['method']!r} and has {'no' if not cell['table'] else 'a'} table")
    if cell["table"]:
        _require(file, f"the table of {name}", cell["table"], dict.fromkeys(SIZES, (int,)))
        if min(cell["table"][size] for size in SIZES) < 1:
            _damaged(file, f"the table of {name} has a size below 1")
    row = {"details": {}, "learning_rate": None, **cell}
    if not isinstance(row["details"], dict):
        _damaged(file, f"{name} has details that are no object")
    return row


def _require(file: Path, name: str, values: Any, kinds: dict[str, tuple[type, ...]]) -> None:
    if not isinstance(values, dict):
        _damaged(file, f"{name} is no object")
    for key, kind in kinds.items():
        if key not in values:
            _damaged(file, f"{name} has no `{key}`")
        if not isinstance(values[key], kind):
            _damaged(file, f"`{key}` of {name} is {values[key]!r}")


def _check(file: Path, rows: list[dict[str, Any]]) -> None:
    if not rows:
        raise DataError(f"{file} has no finished cell yet\nhint: let `foldflat sweep` go on")
    if all(row["method"] == REFERENCE for row in rows):
        raise DataError(
            f"{file} has cells of method {REFERENCE!r} only, so there is nothing to compare\n"
            "hint: wait for other methods, or add some to the grid"
        )
    places = [
        tuple(row[name] for name in ("model", "task", "method", "rate", "seed", "epochs", "max_steps")) for row in rows
    ]
    seen = set()
    for place in places:
        if place in seen:
            _damaged(file, f"the cell {place} stands there twice")
        seen.add(place)


def _machines(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the cells in a folder were computed on, by what may explain a difference."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        file = folder / f"{row.get('key')}.json"
        run = _json(file, "delete it, and the sweep computes it again").get("run") if file.is_file() else None
        if not run or "chosen" in row:  # a choice among cells computes nothing
            continue
        machine = {name: run.get(name, "unknown") for name in _MACHINE}
        own = found.setdefault(tuple(machine.values()), {**machine, "cells": 0, "seconds": 0.0})
        own["cells"] += 1
        own["seconds"] += float(run.get("seconds", {}).get("all", 0.0))
    return list(found.values())


def parent_learning_rate(folder: str | os.PathLike[str], row: dict[str, Any]) -> float | None:
    """Return the learning rate of a cell's parent; None where its folder is not there, or several may be it.

    Args:
        folder: of the sweep.
        row: the cell.
    """
    rates = set()
    for file in Path(folder).glob("parents/*/parent.json"):
        values = _json(file, "delete its folder, and the sweep computes it again")
        settings, figures = values.get("settings", {}), values.get("figures", {})
        seed = settings.get("training", {}).get("seed")
        if (settings.get("task"), seed) == (row["task"], spawn_seeds(row["seed"], 2)[0]):
            rates.add(figures.get("learning_rate"))
    return rates.pop() if len(rates) == 1 else None
