"""A sweep that is killed again and again, at random moments, as a user's would be: by its whole process."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sweep")]

KILLS = 10


def command(grid: Path, results: Path) -> list[str]:
    """Return the command that a user types."""
    return [sys.executable, "-m", "foldflat", "sweep", str(grid), "-o", str(results), "--threads", "1"]


def seconds_of(grid: Path, results: Path) -> tuple[float, float]:
    """Run a sweep to its end; return the seconds until its folder was there, and those of the whole."""
    start = time.monotonic()
    process = subprocess.Popen(command(grid, results), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (results / "locks").is_dir():
        assert process.poll() is None
        time.sleep(0.01)
    begun = time.monotonic() - start
    assert process.wait() == 0
    return begun, time.monotonic() - start


def test_ten_kills_at_random_moments_change_no_figure(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    """The sweep that is begun for the eleventh time ends with the bytes of one that nobody killed."""
    grid = write_grid(methods=["none", "svd", "paper", "ours", "int8"], max_steps=[0, 200], parent={"max_steps": 200})
    begun, whole = seconds_of(grid, tmp_path / "whole")
    draw, killed = random.Random(0), 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(grid, tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            # half of the work is done when the last one is killed, or so
            process.wait(begun + draw.uniform(0, (whole - begun) / KILLS))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += process.wait() == -signal.SIGKILL
    assert killed == KILLS
    seconds_of(grid, tmp_path / "killed")
    results = [(tmp_path / name / "results.json").read_bytes() for name in ("whole", "killed")]
    assert results[0] == results[1]
    assert not list((tmp_path / "killed" / "errors").iterdir())
