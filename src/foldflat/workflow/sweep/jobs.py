"""The jobs of a sweep, each known by the sha256 of all that determines its figures."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

from foldflat.evaluate import TrainingSettings, data_fingerprint, model_fingerprint
from foldflat.randomness import spawn_seeds
from foldflat.workflow.sweep.grid import Grid
from foldflat.workflow.sweep.methods import ENSEMBLE, ENSEMBLE_OF, has_rate, recipe_of

__all__ = ["CELL_FORMAT", "TRAINING_ROWS", "Cell", "Job", "cells_of", "with_needs"]

CELL_FORMAT = 1
"""Raised whenever what a cell computes or holds changes; a folder of another number is refused."""

TRAINING_ROWS = 1000
"""Rows of the training split that the paper's choice among numbers of subspaces is made on."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Say what is to be computed: a parent, a cell, or the choice of one cell among several.

    Attributes:
        kind: "parent", "cell" or "choice".
        settings: all that determines the figures; the key is their sha256.
        model: where the model is; its fingerprint, not its place, is among the settings.
        data: where the data is, likewise.
        label: what it is called in messages.
        needs: jobs that have to be finished before.
    """

    kind: str
    settings: dict[str, Any]
    model: str
    data: str
    label: str
    needs: tuple["Job", ...] = ()

    @cached_property
    def key(self) -> str:
        """Return the sha256 of kind, format and settings in canonical JSON."""
        values = {"kind": self.kind, "format": CELL_FORMAT, **self.settings}
        return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Cell:
    """Hold a cell of the grid: its place on every axis, and the job that computes it."""

    place: dict[str, Any]
    job: Job


def cells_of(grid: Grid) -> list[Cell]:
    """Return every cell of a grid, once all models and data were looked at.

    Raises:
        FoldflatError: a model or a task's data is missing or unusable; the message names the line.
    """
    models, tasks = {}, {}
    for model in grid.models:
        with grid.line_of("models", model):
            models[model] = model_fingerprint(model)
    for task in grid.tasks:
        with grid.line_of("tasks", task):
            tasks[task] = data_fingerprint(grid.data, task)
    cells = []
    for model, task, seed in itertools.product(grid.models, grid.tasks, grid.seeds):
        parent = _parent(grid, model, task, seed, {"model": models[model], "data": tasks[task]})
        cells += [_cell(grid, parent, place) for place in _places(grid, model, task, seed)]
    return cells


def with_needs(jobs: Iterable[Job], finished: Callable[[Job], bool]) -> dict[str, Job]:
    """Return jobs and what they need by key, each after what it needs; what a finished one needed is left out."""
    found: dict[str, Job] = {}
    for job in jobs:
        if not finished(job):
            found |= {key: need for key, need in with_needs(job.needs, finished).items() if key not in found}
        found.setdefault(job.key, job)
    return found


def _places(grid: Grid, model: str, task: str, seed: int) -> Iterator[dict[str, Any]]:
    for method, length in itertools.product(grid.methods, grid.lengths):
        for rate in grid.rates if has_rate(method) else (None,):
            place = {"model": model, "task": task, "method": method, "rate": rate, "seed": seed}
            yield {**place, "epochs": None, "max_steps": None, grid.unit: length}


def _parent(grid: Grid, model: str, task: str, seed: int, fingerprints: dict[str, str]) -> Job:
    training = dataclasses.replace(grid.parent, seed=_seeds(seed)[0])
    settings = {**fingerprints, "task": task, "training": dataclasses.asdict(training)}
    return Job("parent", settings, model, grid.data, f"{task} parent, seed {seed}")


def _cell(grid: Grid, parent: Job, place: dict[str, Any]) -> Cell:
    if place["method"] != ENSEMBLE:
        return Cell(place, _job(grid, parent, place, place["method"]))
    needs = tuple(_job(grid, parent, place, f"{ENSEMBLE}-{k}") for k in ENSEMBLE_OF)
    settings = {"among": [need.key for need in needs]}
    return Cell(place, Job("choice", settings, parent.model, parent.data, _label(place, ENSEMBLE), needs))


def _job(grid: Grid, parent: Job, place: dict[str, Any], method: str) -> Job:
    recipe = recipe_of(method, place["rate"], place["seed"])
    settings = {
        **parent.settings,
        "parent": parent.settings["training"],
        "method": method,
        "rate": place["rate"],
        "recipe_seed": place["seed"],
        "recipe": None if recipe is None else recipe.to_dict(),
        "training": _after(grid, place),
        "training_rows": TRAINING_ROWS if method.startswith(f"{ENSEMBLE}-") else None,
    }
    return Job("cell", settings, parent.model, parent.data, _label(place, method), (parent,))


def _after(grid: Grid, place: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings of the run after compression, None where there is none."""
    if not place[grid.unit]:
        return None
    settings: TrainingSettings = dataclasses.replace(
        grid.training, seed=_seeds(place["seed"])[1], **{grid.unit: place[grid.unit]}
    )
    return dataclasses.asdict(settings)


def _seeds(seed: int) -> list[int]:
    """Return the seeds of the parent's run and of the run after compression."""
    return spawn_seeds(seed, 2)


def _label(place: dict[str, Any], method: str) -> str:
    rate = "" if place["rate"] is None else f" at {place['rate']:g}"
    length = f"{place['epochs']:g} epochs" if place["max_steps"] is None else f"{place['max_steps']} steps"
    return f"{place['task']} {method}{rate}, seed {place['seed']}, {length}"
