"""`foldflat report`, in process: what it writes, what it refuses, and that its commands repeat a cell."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tests.report import made
from typer.testing import CliRunner

from foldflat.cli import app
from foldflat.errors import CheckpointError, DataError, FormatVersionError, ModelNotFoundError
from foldflat.workflow.sweep.commands import commands_for
from foldflat.workflow.sweep.jobs import CELL_FORMAT
from foldflat.workflow.sweep.reading import read_results

pytestmark = pytest.mark.xdist_group("sweep")


def run(*arguments: object) -> Result:
    """Run a command as a user would type it."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Give a folder of made results."""
    return made.write_results(tmp_path / "results", made.cells())


def test_a_report_is_written_in_every_form_at_once(results: Path, tmp_path: Path) -> None:
    """HTML, Markdown and JSON of the same, from the folder or from its file; the head is printed, JSON with --json."""
    files = [tmp_path / f"report.{kind}" for kind in ("html", "md", "json")]
    done = run("report", results, *(part for file in files for part in ("-o", file)))
    assert done.exit_code == 0, done.output
    assert "ours drops least" in done.stdout
    page, text, values = (file.read_text(encoding="utf-8") for file in files)
    assert page.startswith("<!DOCTYPE html>")
    assert text.startswith("# What compression costs: made")
    assert "Abacus 9" in page
    again = run("report", results / "results.json", "--json")
    found, kept = json.loads(again.stdout), json.loads(values)
    assert found.pop("results") == str(results / "results.json")
    assert kept.pop("results") == str(results)
    assert found == kept
    assert found["machines"][0]["cells"] == len(made.cells())
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_a_page_without_jinja2_names_the_extra(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Markdown and JSON need no template."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = run("report", results, "-o", tmp_path / "report.html")
    assert done.exit_code == 1
    assert 'pip install "foldflat[eval]", or write .md' in done.stderr
    assert run("report", results, "-o", tmp_path / "report.md").exit_code == 0


def test_what_is_there_is_kept_without_overwrite(results: Path, tmp_path: Path) -> None:
    """An existing file stops the command before any is written; --overwrite replaces it."""
    there, new = tmp_path / "report.html", tmp_path / "report.md"
    there.write_text("mine", encoding="utf-8")
    refused = run("report", results, "-o", new, "-o", there)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert there.read_text(encoding="utf-8") == "mine"
    assert not new.exists()
    assert run("report", results, "-o", there, "--overwrite").exit_code == 0
    assert "<!DOCTYPE html>" in there.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        (["-o", "report.pdf"], 2, "'report.pdf' ends in '.pdf', which says no form of a report"),
        (["-o", "report"], 2, "hint: name it .html, .md, .json"),
        (["-o", "absent/report.html"], 2, "folder absent does not exist"),
        (["-o", "folder.html"], 1, "folder.html is a folder"),
        ([], 2, "no file to write the report to"),
    ],
)
def test_where_nothing_can_be_written_is_said_first(
    results: Path, output: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Usage errors end with 2, others with 1."""
    monkeypatch.chdir(results.parent)
    (results.parent / "folder.html").mkdir()
    done = run("report", results, *output)
    assert done.exit_code == code
    assert message in " ".join(done.stderr.split())


def test_results_of_another_format_are_refused(results: Path) -> None:
    """Older and newer ones; the message names both numbers."""
    file = results / "results.json"
    file.write_text(json.dumps({"format": CELL_FORMAT + 1, "cells": []}))
    with pytest.raises(FormatVersionError, match=f"format {CELL_FORMAT + 1}, this foldflat reads format {CELL_FORMAT}"):
        read_results(results)
    assert run("report", results, "--json").exit_code == 1


def test_absent_results_are_named(tmp_path: Path) -> None:
    """No such folder, and a folder in which no cell has finished."""
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        read_results(tmp_path / "absent")
    with pytest.raises(ModelNotFoundError, match=r"has no results\.json\nhint: `foldflat sweep"):
        read_results(tmp_path)


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda cell: cell.pop(name)


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no score": (_without("score"), "cell 3 has no `score`"),
    "a seed that is text": (lambda cell: cell.update(seed="0"), "`seed` of cell 3 is '0'"),
    "a score that is none": (lambda cell: cell["score"]["headline"].update(value=None), "the score of cell 3 is None"),
    "a table of none": (lambda cell: cell.update(table={}), "is of method 'svd' and has no table"),
    "a size of nothing": (lambda cell: cell["table"].update(size_bytes_before=0), "a size below 1"),
    "no size": (lambda cell: cell["table"].pop("size_bytes_after"), "the table of cell 3 has no `size_bytes_after`"),
    "two of one place": (lambda cell: cell.update(seed=1), "stands there twice"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_cell_is_named(name: str, tmp_path: Path) -> None:
    """Whatever the report would stumble over is said with the cell's number and what is wrong with it."""
    change, message = DAMAGES[name]
    cells = made.cells(tasks=("sst2",), methods=("none", "svd"), rates=(0.4,), lengths=(0,))
    change(cells[2])
    with pytest.raises(CheckpointError, match=message):
        read_results(made.write_results(tmp_path / "results", cells))


def test_a_damaged_file_is_named(results: Path) -> None:
    """Cut off, no object, or with numbers that are none."""
    file = results / "results.json"
    whole = file.read_text()
    for text in (whole[:1000], "[]", whole.replace("0.41", "NaN", 1), f'{{"format": {CELL_FORMAT}}}'):
        file.write_text(text)
        with pytest.raises(CheckpointError, match="is damaged"):
            read_results(results)


def test_there_has_to_be_something_to_compare(tmp_path: Path) -> None:
    """No finished cell, or the uncompressed model alone, is no report."""
    with pytest.raises(DataError, match="no finished cell yet"):
        read_results(made.write_results(tmp_path / "empty", []))
    with pytest.raises(DataError, match="method 'none' only"):
        read_results(made.write_results(tmp_path / "none", made.cells(methods=("none",))))


def test_commands_repeat_a_cell(
    write_grid: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three commands of a report, run as they stand there, end with the very score and loss of the cell.

    Learning rates are those that trials chose, and the teacher is the parent.
    """
    training = {"batch_size": 8, "learning_rate": [1e-5, 1e-3], "trial_steps": 2, "hold_out": 0.2, "teacher": True}
    grid = write_grid(methods=["none", "svd"], seeds=[1], training=training)
    results = tmp_path / "results"
    assert run("sweep", grid, "-o", results).exit_code == 0
    values = json.loads((results / "results.json").read_text())
    found = json.loads(run("report", results, "--json").stdout)
    assert found["commands"]["label"] == "sst2, svd at 40\N{NO-BREAK SPACE}%, seed 1, 2 steps of fine-tuning"
    assert found["commands"]["notes"] == []
    monkeypatch.chdir(tmp_path)
    for line in found["commands"]["cell"]:
        program, *arguments = shlex.split(line)
        assert program == "foldflat"
        done = run(*arguments, "--json")
        assert done.exit_code == 0, done.output
    (cell,) = (cell for cell in values["cells"] if cell["method"] == "svd")
    again = json.loads(done.stdout)
    assert again["headline"] == cell["score"]["headline"]
    # a score of few rows hides much
    assert again["train"]["train_loss"] == cell["train_loss"]


@pytest.mark.parametrize(
    ("method", "rate", "options"),
    [
        ("svd", 0.43, "--method svd --seed 7 --keep 0.57"),
        ("paper-3", 0.4, "--method subspaces --seed 7 --keep 0.6 --subspaces 3 --equal-ranks"),
        ("ours", 0.4, "--method subspaces --seed 7 --keep 0.6"),
        ("ours-weighted", 0.4, "--method subspaces --seed 7 --keep 0.6 --text glue:sst2:train"),
        ("mixed", 0.75, "--method subspaces --seed 7 --budget 250 --coefficients mixed"),
        ("int8", None, "--method int8 --seed 7"),
    ],
)
def test_every_method_has_its_command(method: str, rate: float | None, options: str) -> None:
    """The options that make the recipe of the sweep; what `finetune` cannot do is told."""
    grid = "data: glue\ntraining: {learning_rate: [1.0e-4, 3.0e-4], warmup_ratio: 0.1}\nparent: {epochs: 3}\n"
    row = {"model": "m", "task": "sst2", "method": method, "rate": rate, "seed": 7, "epochs": 2.0, "max_steps": None}
    row["table"] = {"size_bytes_before": 1000}
    found = commands_for({**row, "learning_rate": 3e-4}, grid, "results")
    assert found["cell"][1] == f"foldflat compress parent {options} -o small"
    assert "--learning-rate 0.0003" in found["cell"][2]
    assert "--epochs 2.0" in found["cell"][2]
    assert any("warmup_ratio: 0.1" in note for note in found["notes"])
    assert any("parent was chosen among 0.0001, 0.0003" in note for note in found["notes"])
    assert any("--text" in note for note in found["notes"]) == method.endswith("-weighted")
    known = commands_for({**row, "learning_rate": 3e-4}, grid, "results", 3e-4)
    assert not any("was chosen" in note for note in known["notes"])
    assert "--learning-rate 0.0003" in known["cell"][0]
    assert commands_for({**row, "learning_rate": None}, "", "results")["cell"] == []
