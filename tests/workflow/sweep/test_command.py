"""`foldflat sweep`, in process: what it prints, its JSON, its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path

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
