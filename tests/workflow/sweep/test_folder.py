"""The folder of a sweep: what it refuses, removes and names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from foldflat.errors import CheckpointError, FormatVersionError, TargetExistsError
from foldflat.workflow.sweep import read_grid, run_sweep
from foldflat.workflow.sweep.folder import ResultsFolder
from foldflat.workflow.sweep.jobs import cells_of

# the grid's parts are made once
pytestmark = pytest.mark.xdist_group("sweep")

WriteGrid = Callable[..., Path]


def test_folders_of_other_things_or_versions_are_left_alone(write_grid: WriteGrid, tmp_path: Path) -> None:
    """Both are errors before anything is written."""
    other, old = tmp_path / "other", tmp_path / "old"
    for folder, name, text in ((other, "thesis.tex", "hours of work"), (old, "sweep.json", '{"format": 99}')):
        folder.mkdir()
        (folder / name).write_text(text)
    with pytest.raises(TargetExistsError, match=r"thesis\.tex"):
        run_sweep(write_grid(), other)
    with pytest.raises(FormatVersionError, match="cells of format 99"):
        run_sweep(write_grid(), old)
    assert [len(list(folder.iterdir())) for folder in (other, old)] == [1, 1]


def test_what_a_killed_write_left_is_removed(write_grid: WriteGrid, tmp_path: Path) -> None:
    """By who computes the same next; what another may be writing stays."""
    grid = write_grid(methods=["none"], max_steps=[0])
    folder = ResultsFolder(tmp_path / "results")
    (cell,) = cells_of(read_grid(grid))
    half = folder.parent_folder(cell.job.needs[0]).parent / f".{cell.job.needs[0].key}.abc"
    (half / "deeper").mkdir(parents=True)
    files = [folder.path / "cells" / f".{key}.def" for key in (cell.job.key, "another")]
    for file in files:
        file.touch()
    run_sweep(grid, folder.path)
    assert [path.exists() for path in (half, *files)] == [False, False, True]


def test_a_damaged_cell_is_named(write_grid: WriteGrid, tmp_path: Path) -> None:
    """It is not taken for one that is missing; deleted, it is computed again to the same bytes."""
    found = run_sweep(write_grid(methods=["none"], max_steps=[0]), tmp_path / "results")
    (cell,) = (tmp_path / "results" / "cells").iterdir()
    text = found.file.read_bytes()
    cell.write_text(cell.read_text()[:100])
    with pytest.raises(CheckpointError, match=rf"{cell.name} is damaged(.|\n)*hint: delete it"):
        run_sweep(write_grid(methods=["none"], max_steps=[0]), tmp_path / "results")
    cell.unlink()
    assert run_sweep(write_grid(methods=["none"], max_steps=[0]), tmp_path / "results").computed == 1
    assert found.file.read_bytes() == text
