"""`foldflat sweep`, in process: what it prints, its JSON, its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from foldflat.cli import app

pytestmark = pytest.mark.xdist_group("sweep")


def run(*arguments: object) -> Result:
    """Run a command as a user would type it."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_sweep_says_how_it_goes_and_ends_with_tables(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    """Lines of progress on stderr, tables on stdout; with `--json` the same figures and nothing else."""
    grid, results = write_grid(), tmp_path / "results"
    first = run("sweep", grid, "-o", results)
    assert first.exit_code == 0, first.output
    assert "2 of 2: sst2 svd at 0.4, seed 0, 2 steps: accuracy" in first.stderr
    assert "2 steps after compression" in " ".join(first.stdout.split())
    assert "2 cells in" in first.stdout
    again = run("sweep", write_grid(methods=["none", "svd", "int8"]), "-o", results, "--json")
    assert again.stderr == ""
    found = json.loads(again.stdout)
    assert (found["finished"], found["computed"], found["failed"]) == (3, 1, [])
    by_method = {row["method"]: row["score"]["mean"] for row in found["statistics"]["groups"][0]["scores"]}
    cells = json.loads((results / "results.json").read_text())["cells"]
    assert by_method == {cell["method"]: cell["score"]["headline"]["value"] for cell in cells}


def test_what_cannot_be_swept_is_said(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    """A malformed grid is a usage error, a budget that is too small one cell; neither touches anything else."""
    wrong = run("sweep", write_grid(seeds=[-1]), "-o", tmp_path / "results")
    assert wrong.exit_code == 2
    assert "grid.yaml, line 12: `seed` is -1" in " ".join(wrong.stderr.split())
    assert not (tmp_path / "results").exists()
    failed = run("sweep", write_grid(rates=[0.999]), "-o", tmp_path / "results")
    assert failed.exit_code == 1
    assert "1 cells failed; the next run tries them again." in failed.stderr
    assert "BudgetError" in failed.stderr
    assert "1 cells in" in failed.stdout


def test_a_team_of_processes_is_refused(
    write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun every process would take another cell, and wait in it for the others for ever."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = run("sweep", write_grid(), "-o", tmp_path / "results")
    assert refused.exit_code == 2
    assert "begun by 2 processes at once, as torchrun does" in " ".join(refused.stderr.split())
    assert not (tmp_path / "results").exists()


def test_options_do_what_a_file_does(
    write_grid: Callable[..., Path], sweep_parts: dict[str, Any], tmp_path: Path
) -> None:
    """The same keys, so the second run has nothing to compute; the grid that they make is in results.json."""
    same = {"training": {"learning_rate": 1e-3}, "parent": None, "max_steps": [0]}
    first = run("sweep", write_grid(**same, methods=["none", "svd"]), "-o", tmp_path / "results", "--json")
    assert json.loads(first.stdout)["computed"] == 3
    place = ["--model", sweep_parts["models"][0], "--data", sweep_parts["data"], "--task", "sst2"]
    what = ["--method", "none", "--method", "svd", "--rate", "0.4", "--max-steps", "0", "--learning-rate", "1e-3"]
    again = run("sweep", *place, *what, "-o", tmp_path / "results", "--json")
    assert json.loads(again.stdout)["computed"] == 0
    text = json.loads((tmp_path / "results" / "results.json").read_text())["grid"]
    (tmp_path / "written.yaml").write_text(text)
    third = run("sweep", tmp_path / "written.yaml", "-o", tmp_path / "results", "--json")
    assert json.loads(third.stdout)["computed"] == 0


def test_options_that_make_no_grid_are_said(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    """A file and options, neither, and what a file would be refused for."""

    def refused(*arguments: object) -> str:
        found = run("sweep", *arguments, "-o", tmp_path / "results")
        assert found.exit_code == 2
        return " ".join(found.stderr.split())

    assert "is given, and `tasks`" in refused(write_grid(), "--task", "sst2")
    assert "nothing to compare is given" in refused()
    assert "the grid has no `data`" in refused("--model", "m", "--task", "sst2", "--method", "none")
    assert "the grid as given, line 4: unknown task 'sst3'" in refused(
        "--model", "m", "--data", "d", "--task", "sst3", "--method", "none"
    )
