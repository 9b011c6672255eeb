"""Sweeps: every cell once, the same figures however they were cut up, failures kept apart."""

import json
import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.processes import in_new_process

from foldflat.errors import BudgetError, DataError, RecipeError
from foldflat.evaluate import finetune_classifier
from foldflat.workflow.sweep import places, run_sweep, work

# the grid's parts are made once
pytestmark = pytest.mark.xdist_group("sweep")

WriteGrid = Callable[..., Path]


def test_every_cell_is_computed_once_from_one_parent(write_grid: WriteGrid, tmp_path: Path) -> None:
    """A second run computes nothing; one more method computes its cell alone, from the parent that is there."""
    first = run_sweep(write_grid(), tmp_path / "results")
    assert first.computed == 3
    assert [row["method"] for row in first.cells] == ["none", "svd"]
    text = first.file.read_bytes()
    assert run_sweep(write_grid(), tmp_path / "results").computed == 0
    assert first.file.read_bytes() == text
    more = run_sweep(write_grid(methods=["none", "svd", "int8"]), tmp_path / "results")
    assert more.computed == 1
    assert len(list((tmp_path / "results" / "parents").iterdir())) == 1
    by_method = {row["method"]: row for row in more.cells}
    assert by_method["svd"]["table"]["parameters_after"] <= 0.6 * by_method["svd"]["table"]["parameters_before"]
    assert by_method["none"]["table"] == {}
    assert by_method["int8"]["rate"] is None
    assert by_method["int8"]["steps"] == 2


def test_the_same_cell_twice_gives_the_same_figures(write_grid: WriteGrid, tmp_path: Path) -> None:
    """Two folders hold the same text, though one was computed at two times, of a grid in another order at first."""
    grid = {"methods": ["none", "paper-2", "ours"], "max_steps": [0, 2], "seeds": [1]}
    whole = run_sweep(write_grid(**grid), tmp_path / "whole")
    run_sweep(write_grid(**{**grid, "methods": ["ours"], "max_steps": [2]}), tmp_path / "parts")
    run_sweep(write_grid(**{**grid, "max_steps": [2, 0]}), tmp_path / "parts")
    parts = run_sweep(write_grid(**grid), tmp_path / "parts")
    assert parts.file.read_bytes() == whole.file.read_bytes()
    assert "seconds" not in whole.file.read_text()


def test_without_fine_tuning_a_cell_scores_what_compression_left(write_grid: WriteGrid, tmp_path: Path) -> None:
    """No steps after: `none` is the parent itself; every method of a seed is compared with it."""
    found = run_sweep(write_grid(max_steps=[0]), tmp_path / "results")
    none, svd = found.cells
    assert none["score"] == none["uncompressed"] == svd["uncompressed"]
    assert none["steps"] == svd["steps"] == 0


def test_the_ensemble_is_the_cell_that_does_best_on_training_rows(write_grid: WriteGrid, tmp_path: Path) -> None:
    """Its figures are those of one of k = 2..5, whose score on the training split none exceeds."""
    methods = ["paper", "paper-2", "paper-3", "paper-4", "paper-5"]
    found = run_sweep(write_grid(tasks=["stsb"], methods=methods, rates=[0.6]), tmp_path / "results")
    assert found.computed == 6
    by_method = {row["method"]: row for row in found.cells}
    ensemble = by_method.pop("paper")
    scores = {method: row["training_score"]["value"] for method, row in by_method.items()}
    assert ensemble["training_scores"] == scores
    assert scores[ensemble["chosen"]] == max(scores.values()) > min(scores.values())
    chosen = by_method[ensemble["chosen"]]
    assert {name: ensemble[name] for name in ("score", "table")} == {name: chosen[name] for name in ("score", "table")}
    assert [table["n_subspaces"] for table in chosen["table"]["tables"]] == [int(ensemble["chosen"][-1])]


def test_a_cell_that_fails_is_told_and_tried_again(
    write_grid: WriteGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is in a file, the others are there, and the next run computes it and forgets the error."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise BudgetError("too small\nhint: more")

    with monkeypatch.context() as patch:
        patch.setattr(work, "compress", refuse)
        found = run_sweep(write_grid(), tmp_path / "results")
    assert [row["method"] for row in found.cells] == ["none"]
    assert [(row["method"], row["error"]["class"]) for row in found.failed] == [("svd", "BudgetError")]
    (file,) = (tmp_path / "results" / "errors").iterdir()
    assert json.loads(file.read_text())["message"] == "too small\nhint: more"
    again = run_sweep(write_grid(), tmp_path / "results")
    assert (again.computed, again.failed) == (1, [])
    assert not file.exists()


def test_a_parent_that_fails_fails_its_cells(
    write_grid: WriteGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried once, not for every cell; parents of other tasks go on."""
    tried = []

    def refuse(model: Any, task: str, *arguments: Any, **named: Any) -> Any:
        tried.append(task)
        if task == "stsb":
            raise DataError("the loss became nan")
        return finetune_classifier(model, task, *arguments, **named)

    monkeypatch.setattr(work, "finetune_classifier", refuse)
    found = run_sweep(write_grid(tasks=["stsb", "sst2"], max_steps=[0]), tmp_path / "results")
    assert tried == ["stsb", "sst2"]
    assert [row["task"] for row in found.cells] == ["sst2", "sst2"]
    assert {row["error"]["message"] for row in found.failed} == {"stsb parent, seed 0 failed: the loss became nan"}


def test_a_model_that_changes_while_it_is_trained_is_no_parent(
    write_grid: WriteGrid, sweep_parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells would be kept under the weights that it had."""
    model = shutil.copytree(sweep_parts["models"][0], tmp_path / "model")

    def change(*arguments: Any, **named: Any) -> Any:
        made = finetune_classifier(*arguments, **named)
        (model / "config.json").write_text((model / "config.json").read_text() + "\n")
        return made

    monkeypatch.setattr(work, "finetune_classifier", change)
    found = run_sweep(write_grid(models=[str(model)], methods=["none"]), tmp_path / "results")
    assert "has changed since the sweep began" in found.failed[0]["error"]["message"]
    assert list((tmp_path / "results" / "parents").iterdir()) == []


def test_more_threads_than_cores_are_refused(
    write_grid: WriteGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs times threads is at most the cores."""
    monkeypatch.setattr(places, "available_cores", lambda: 4)
    with pytest.raises(RecipeError, match="3 jobs of 2 threads need 6 cores, there are 4"):
        run_sweep(write_grid(), tmp_path / "results", jobs=3, threads=2)


_SWEEPS = """
import os, signal, sys, time
from pathlib import Path
from foldflat.workflow.sweep import run_sweep
import foldflat.workflow.sweep.work, transformers, datasets, accelerate, sklearn.metrics, scipy.stats

grid, root = sys.argv[1], Path(sys.argv[2])
datasets.config.HF_DATASETS_CACHE = root / "cache"

def begin(folder):
    # a copy of this process spares the seconds that starting one takes
    child = os.fork()
    if not child:
        found = run_sweep(grid, folder)
        assert found.failed == [], found.failed
        (folder / f"computed-{os.getpid()}").write_text(str(found.computed))
        os._exit(0)
    return child

def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.01)
"""

_KILLED = """
expected = run_sweep(grid, root / "whole")
folder = root / "killed"
moments = [
    lambda: any((folder / "locks").glob("*")),                     # the parent has just begun
    lambda: any((folder / "parents").glob("[!.]*")),               # the parent is there, the first cell has begun
    lambda: len(list((folder / "cells").glob("[!.]*.json"))) > 1,  # in the midst of the cells
    lambda: len(list((folder / "locks").glob("*"))) > 4,           # another one has begun
]
computed = 0
for moment in moments:
    child = begin(folder)
    until(lambda: moment())
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    kept = sorted((folder / "cells").glob("[!.]*.json"))
done = run_sweep(grid, folder)
assert 0 < done.computed < expected.computed, "what was finished was kept, what was not was computed"
assert done.file.read_bytes() == expected.file.read_bytes()
"""

_TWO = """
folder = root / "two"
children = [begin(folder), begin(folder)]
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
counts = [int(file.read_text()) for file in folder.glob("computed-*")]
assert sum(counts) == 6, counts
assert (folder / "results.json").read_bytes() == (root / "whole" / "results.json").read_bytes()
"""


@pytest.mark.slow
def test_killed_sweeps_and_two_at_once_end_as_one_that_ran_through(write_grid: WriteGrid, tmp_path: Path) -> None:
    """Killed at four moments and begun again: the same results.json; two at once: that too, and each job once."""
    grid = write_grid(methods=["none", "svd", "paper-2", "ours", "int8"], training={"batch_size": 8}, max_steps=[6])
    in_new_process(_SWEEPS + _KILLED + _TWO, grid, tmp_path)


def test_processes_compute_what_one_does_and_a_lost_one_is_replaced(
    write_grid: WriteGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that makes the parent is killed: it is said, tried again in a new one, and the figures are equal."""
    monkeypatch.setattr(places, "available_cores", lambda: 2)
    locks = tmp_path / "two" / "locks"

    def kill() -> None:
        while not (locks.is_dir() and any(locks.iterdir())):
            time.sleep(0.01)
        for child in multiprocessing.active_children():
            child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    said: list[str] = []
    found = run_sweep(write_grid(), tmp_path / "two", jobs=2, watch=said.append)
    killer.join()
    assert said[0] == "sst2 parent, seed 0: its process ended, it is tried again"
    assert found.failed == []
    assert found.file.read_bytes() == run_sweep(write_grid(), tmp_path / "one").file.read_bytes()


_ORPHANS = """
import os, signal, subprocess, sys, time
from pathlib import Path

if __name__ == "__main__":
    main = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
    locks = Path(sys.argv[3]) / "locks"
    while not (locks.is_dir() and any(locks.iterdir())):
        assert main.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text().split()
    main.kill()
    main.wait()
    end = time.monotonic() + 10
    while left := [child for child in children if Path(f"/proc/{child}/exe").exists()]:
        if time.monotonic() > end:
            for child in left:
                os.kill(int(child), signal.SIGKILL)
            sys.exit("a worker outlived its sweep")
        time.sleep(0.01)
    assert len(children) > 1  # the worker and multiprocessing's tracker
"""

_TWO_JOBS = """
import sys
from foldflat.workflow.sweep import places, run_sweep
places.available_cores = lambda: 2
run_sweep(sys.argv[1], sys.argv[2], jobs=2)
"""


@pytest.mark.slow
def test_processes_end_with_the_sweep_that_is_killed(write_grid: WriteGrid, tmp_path: Path) -> None:
    """Else they would hold their memory, and their claim, for ever."""
    grid = write_grid(parent={"max_steps": 2000})
    in_new_process(_ORPHANS, _TWO_JOBS, grid, tmp_path / "results")
