"""Run a sweep: find what is finished, compute the rest, keep results.json up to date."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foldflat.errors import RecipeError
from foldflat.report.statistics import sweep_statistics
from foldflat.workflow.sweep.folder import ResultsFolder
from foldflat.workflow.sweep.grid import read_grid
from foldflat.workflow.sweep.jobs import Cell, Job, cells_of
from foldflat.workflow.sweep.places import places_for, ray_places
from foldflat.workflow.sweep.schedule import compute
from foldflat.workflow.sweep.work import Outcome

__all__ = ["SweepResult", "run_sweep"]


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """Hold what a sweep has.

    Attributes:
        file: results.json.
        cells: place and figures of every finished cell of the grid.
        failed: place and error of every cell that has none.
        computed: how many cells and parents this run computed.
        statistics: see `foldflat.report.statistics`.
    """

    file: Path
    cells: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    computed: int
    statistics: dict[str, Any]


def run_sweep(
    grid: str | os.PathLike[str] | Mapping[str, Any],
    results: str | os.PathLike[str],
    *,
    jobs: int = 1,
    threads: int | None = None,
    ray: str | None = None,
    watch: Callable[[str], None] | None = None,
) -> SweepResult:
    """Compute every cell of a grid that the folder of results does not have yet.

    A cell that fails is left out and tried again by the next run. Several sweeps may use one folder at once.

    Args:
        grid: YAML file, see docs/sweep.md, or what it would hold.
        results: folder, made where it is missing.
        jobs: processes side by side; 1 is this one.
        threads: of each job; default: the cores shared among jobs, and what torch uses for one.
        ray: address of a Ray cluster to compute on, in place of `jobs`.
        watch: called with a line about everything that ends.

    Raises:
        RecipeError: several processes of one torchrun.
        FoldflatError: the grid, a model or a task's data is unusable, or the folder is of another version; before
            anything is computed.
    """
    _require_alone()
    say = watch or (lambda _: None)
    read = read_grid(grid)
    folder = ResultsFolder(results)
    cells = cells_of(read)
    state = _State(folder, read.text, cells, say)
    left = [cell.job for cell in cells if cell.job.key not in state.figures]
    if left:
        places = places_for(jobs, threads) if ray is None else ray_places(ray, threads)
        try:
            compute(left, folder, places, state.ended, say)
        finally:
            for place in places:
                place.close()
    return state.result()


def _require_alone() -> None:
    """Raise RecipeError in a team of processes, each of which would wait in a cell of its own for the others."""
    team = int(os.environ.get("WORLD_SIZE", "1"))
    if team > 1:
        raise RecipeError(
            f"a sweep was begun by {team} processes at once, as torchrun does\n"
            "hint: `foldflat sweep .. --jobs N` computes N cells side by side, and --ray one on each GPU of a cluster"
        )


class _State:
    """Keep figures as they come."""

    def __init__(self, folder: ResultsFolder, grid: str, cells: list[Cell], say: Callable[[str], None]) -> None:
        self.folder, self.grid, self.cells, self.say = folder, grid, cells, say
        self.figures: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, dict[str, str]] = {}
        self.computed = 0
        for cell in cells:
            self._look(cell.job)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Take note of a job that ended, and write what is known."""
        self.computed += outcome.state == "computed"
        if outcome.error is not None:
            self.errors[job.key] = outcome.error
            self.say(f"{job.label}: {outcome.error['class']}: {outcome.error['message']}")
            return
        self._look(job)
        seconds = f" ({outcome.seconds:.0f} s)" if outcome.state == "computed" else ""
        if job.key not in self.figures:
            self.say(f"{job.label}{seconds}")
        else:
            score = self.figures[job.key]["score"]["headline"]
            done = sum(cell.job.key in self.figures for cell in self.cells)
            count = f"{done} of {len(self.cells)}"
            self.say(f"{count}: {job.label}: {score['name']} {score['value']:.4f}{seconds}")
            self.folder.write_results(self.grid, self._rows())

    def result(self) -> SweepResult:
        """Write results.json and return all."""
        rows = self._rows()
        failed = [
            {**cell.place, "key": cell.job.key, "error": self.errors[cell.job.key]}
            for cell in self.cells
            if cell.job.key in self.errors
        ]
        return SweepResult(
            self.folder.write_results(self.grid, rows), rows, failed, self.computed, sweep_statistics(rows)
        )

    def _look(self, job: Job) -> None:
        found = None if job.kind in ("parent", "learning_rate") else self.folder.finished(job)
        if found is not None:
            self.figures[job.key] = found["figures"]

    def _rows(self) -> list[dict[str, Any]]:
        """Return the finished cells in the order of the grid's places, sorted."""
        rows = [
            {**cell.place, "key": cell.job.key, **self.figures[cell.job.key]}
            for cell in self.cells
            if cell.job.key in self.figures
        ]
        return sorted(rows, key=_order)


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    length = row["epochs"] if row["max_steps"] is None else row["max_steps"]
    return row["model"], row["task"], length, row["method"], row["rate"] or 0.0, row["seed"]
