"""A sweep on a Ray cluster of this machine; skipped where the extra [ray] is not installed."""

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foldflat.errors import TeamError
from foldflat.workflow.sweep import run_sweep

ray = pytest.importorskip("ray")
# a cluster takes half a minute to start; ray itself leaves files and sockets to the collector
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.xdist_group("sweep")]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a cluster of two cores."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex())  # ray would leave one in the home folder
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_a_cluster_computes_what_one_process_does_and_a_lost_worker_is_replaced(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    """The worker that holds the parent's claim is killed: it is said, tried again, and the figures are equal."""
    locks = tmp_path / "ray" / "locks"

    def kill() -> None:
        while not (locks.is_dir() and any(locks.iterdir())):
            time.sleep(0.01)
        os.kill(_holder(next(locks.iterdir())), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    said: list[str] = []
    found = run_sweep(write_grid(), tmp_path / "ray", ray="auto", watch=said.append)
    killer.join()
    assert said[0] == "sst2 parent, seed 0: its process ended, it is tried again"
    assert found.failed == []
    assert found.file.read_bytes() == run_sweep(write_grid(), tmp_path / "one").file.read_bytes()


def test_no_cluster_at_an_address_is_said(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    """Before anything is computed."""
    with pytest.raises(TeamError, match=r"no Ray cluster at '127\.0\.0\.1:1': .*refused"):
        run_sweep(write_grid(), tmp_path / "results", ray="127.0.0.1:1")


def _holder(file: Path) -> int:
    """Return the process that has a file open."""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if entry.readlink() == file and int(entry.parts[2]) != os.getpid():
                return int(entry.parts[2])
        except OSError:
            continue
    raise AssertionError(f"nobody holds {file}")
