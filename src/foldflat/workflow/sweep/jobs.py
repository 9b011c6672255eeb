"""The jobs of a sweep, each known by the sha256 of all that determines its figures."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

from foldflat.evaluate import data_fingerprint, model_fingerprint
from foldflat.randomness import spawn_seeds
from foldflat.workflow.sweep.grid import Grid, Stage
from foldflat.workflow.sweep.methods import among, recipe_of

__all__ = ["CELL_FORMAT", "SIZES", "TRAINING_ROWS", "Cell", "Job", "cells_of", "with_needs"]

CELL_FORMAT = 2
"""Raised whenever what a cell computes or holds changes; a folder of another number is refused."""

TRAINING_ROWS = 1000
"""Rows of the training split that the paper's choice among numbers of subspaces is made on."""

SIZES = (
    "parameters_before",
    "parameters_after",
    "size_bytes_before",
    "size_bytes_after",
    "model_size_bytes_before",
    "model_size_bytes_after",
)
"""What a cell holds of the report on its table."""

_CANDIDATES = {*among("paper"), *among("paper-weighted")}

_NOMINAL_BYTES = 10**9
"""Size of a table that stands in a key for the model's own, which its fingerprint determines."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Say what is to be computed: a parent, a cell, the choice of one cell among several or that of a learning rate.

    Attributes:
        kind: "parent", "cell", "choice" or "learning_rate".
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

    @property
    def compression(self) -> tuple[Any, ...] | None:
        """Return what the jobs that begin with the same compressed model have in common, None where none does."""
        if "method" not in self.settings:
            return None
        return self.needs[0].key, *(self.settings[name] for name in ("method", "rate", "recipe_seed"))


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
    for model, task in itertools.product(grid.models, grid.tasks):
        fingerprints = {"model": models[model], "data": tasks[task]}
        parents = {seed: _parent(grid, model, task, seed, fingerprints) for seed in grid.seeds}
        for seed in grid.seeds:
            cells += [_cell(grid, parents, place) for place in _places(grid, model, task, seed)]
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
    for method in grid.methods:
        # lengths one after another, so that a process compresses once for all of them
        for rate, length in itertools.product(grid.rates_of(method), grid.lengths):
            place = {"model": model, "task": task, "method": method, "rate": rate, "seed": seed}
            yield {**place, "epochs": None, "max_steps": None, grid.unit: length}


def _parent(grid: Grid, model: str, task: str, seed: int, fingerprints: dict[str, str]) -> Job:
    """Return the job that makes the classifier of a seed, and in `needs` the choice of its learning rate."""
    settings = {**fingerprints, "task": task}
    training = dataclasses.asdict(dataclasses.replace(grid.parent.settings, seed=_seeds(seed)[0]))
    job = Job("parent", {**settings, "training": training}, model, grid.data, f"{task} parent, seed {seed}")
    if not grid.parent.has_trials:
        return job
    trial = Job("parent", settings, model, grid.data, f"{task} parent")
    return _with_learning_rate(job, _learning_rate(grid, grid.parent, trial, 0))


def _learning_rate(grid: Grid, stage: Stage, run: Job, which: int) -> Job:
    """Return the job that chooses the learning rate of the runs of a stage.

    Args:
        grid: whose first seed the trials have.
        stage: of the runs.
        run: such a run of the first seed; but for its training, all its settings and needs are those of the trials.
        which: 0 for the seed of a parent's run, 1 for that of a run after compression.
    """
    steps = stage.trial_steps or -1
    trial = dataclasses.replace(stage.settings, seed=_seeds(grid.seeds[0])[which], max_steps=steps)
    settings = {
        **run.settings,
        "trial_of": run.kind,
        "training": {**dataclasses.asdict(trial), "learning_rate": None, "patience": 0},
        "learning_rates": list(stage.learning_rates),
    }
    return Job("learning_rate", settings, run.model, run.data, f"learning rate of {run.label}", run.needs)


def _with_learning_rate(job: Job, choice: Job) -> Job:
    training = {**job.settings["training"], "learning_rate": None}
    settings = {**job.settings, "training": training, "learning_rate_of": choice.key}
    return dataclasses.replace(job, settings=settings, needs=(*job.needs, choice))


def _cell(grid: Grid, parents: dict[int, Job], place: dict[str, Any]) -> Cell:
    methods = among(place["method"])
    if not methods:
        return Cell(place, _job(grid, parents, place, place["method"]))
    needs = tuple(_job(grid, parents, place, method) for method in methods)
    first = needs[0]
    settings = {"among": [need.key for need in needs]}
    return Cell(place, Job("choice", settings, first.model, first.data, _label(place, place["method"]), needs))


def _job(grid: Grid, parents: dict[int, Job], place: dict[str, Any], method: str) -> Job:
    plain = _untrained(parents[place["seed"]], place, method)
    if not place[grid.unit]:
        return plain
    training = dataclasses.replace(
        grid.training.settings, seed=_seeds(place["seed"])[1], **{grid.unit: place[grid.unit]}
    )
    after = {"training": dataclasses.asdict(training), "teacher": grid.training.teacher}
    job = dataclasses.replace(plain, settings={**plain.settings, **after})
    if not grid.training.has_trials:
        return job
    first = {**place, "seed": grid.seeds[0], "epochs": None, "max_steps": grid.training.trial_steps}
    trial = _untrained(parents[grid.seeds[0]], first, method)
    trial = dataclasses.replace(trial, settings={**trial.settings, "teacher": grid.training.teacher})
    return _with_learning_rate(job, _learning_rate(grid, grid.training, trial, 1))


def _untrained(parent: Job, place: dict[str, Any], method: str) -> Job:
    """Return the job of a cell that is scored as compression leaves it."""
    recipe = recipe_of(method, place["rate"], place["seed"], table_bytes=_NOMINAL_BYTES)
    settings = {
        **parent.settings,
        "parent": parent.settings["training"],
        "method": method,
        "rate": place["rate"],
        "recipe_seed": place["seed"],
        "recipe": None if recipe is None else recipe.to_dict(),
        "training": None,
        "training_rows": TRAINING_ROWS if method in _CANDIDATES else None,
    }
    return Job("cell", settings, parent.model, parent.data, _label(place, method), (parent,))


def _seeds(seed: int) -> list[int]:
    """Return the seeds of the parent's run and of the run after compression."""
    return spawn_seeds(seed, 2)


def _label(place: dict[str, Any], method: str) -> str:
    rate = "" if place["rate"] is None else f" at {place['rate']:g}"
    length = f"{place['epochs']:g} epochs" if place["max_steps"] is None else f"{place['max_steps']} steps"
    return f"{place['task']} {method}{rate}, seed {place['seed']}, {length}"
