"""Large tables on real processes: what several write, and what is left of those that are killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tests.test_cli import run_json
from tests.tiny import planted_table

import foldflat


def command(*arguments: str, processes: int = 1) -> list[str]:
    """Return a command line of foldflat, under torchrun for several processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    return [sys.executable, *launcher, "-m", "foldflat", *arguments]


def launched(*arguments: str, processes: int) -> list[subprocess.Popen[str]]:
    """Start the processes that torchrun would, so that each can be killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    if processes > 1:
        common |= {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": str(processes)}
    return [
        subprocess.Popen(
            command(*arguments),
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Write a table that is large without patching."""
    file = tmp_path / "table.safetensors"
    save_file({"table": planted_table(41_000, 8, 3, 3, noise=0.05)[0]}, file)
    return file


@pytest.mark.slow
def test_two_processes_write_what_one_does(tmp_path: Path, large: Path) -> None:
    """`torchrun` with gloo: one folder, the same error within 1e-5."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    errors = []
    for processes in (1, 2):
        target = tmp_path / str(processes)
        settings = ("compress", str(large), "-k", "3", "--keep", "0.4", "-o", str(target))
        if processes == 1:
            run_json(*settings)
        else:
            asked = command(*settings, processes=processes)
            subprocess.run(asked, check=True, env=environment, capture_output=True, cwd=tmp_path)
        errors.append(json.loads((target / "foldflat.json").read_text())["report"]["tables"][0]["energy_lost"])
        assert foldflat.load(target).to_dense().shape == (41_000, 8)
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(tmp_path: Path, large: Path) -> None:
    """Kill -9 after the first checkpoint; the same command then ends with the bits of a run that was left alone."""
    settings = ("--keep", "0.4", "-k", "3")
    asked = {name: ("compress", str(large), *settings, "-o", str(tmp_path / name)) for name in "ab"}
    state = tmp_path / "a.checkpoint.safetensors"
    process = subprocess.Popen(command(*asked["a"]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert not (tmp_path / "a").exists()
    subprocess.run(command(*asked["a"]), check=True, capture_output=True)
    run_json(*asked["b"])
    weights = [(tmp_path / name / "model.foldflat.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert not state.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_killed_run_goes_on_with_other_processes(tmp_path: Path, large: Path, before: int, after: int) -> None:
    """Kill -9 of all processes, then the same command on another number of them: the same error within 1e-5."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    settings = ("compress", str(large), "--keep", "0.4", "-k", "3")
    state = tmp_path / "a.checkpoint.safetensors"
    killed = launched(*settings, "-o", str(tmp_path / "a"), processes=before)
    while not state.exists() and all(process.poll() is None for process in killed):
        time.sleep(0.01)
    for process in killed:
        process.kill()
    for process in killed:
        process.communicate()
    assert state.exists()
    assert not (tmp_path / "a").exists()
    errors = []
    for name, processes in (("a", after), ("b", before)):
        asked = command(*settings, "-o", str(tmp_path / name), processes=processes)
        subprocess.run(asked, check=True, env=environment, capture_output=True)
        errors.append(json.loads((tmp_path / name / "foldflat.json").read_text())["report"]["tables"][0]["energy_lost"])
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)
    assert not state.exists()


@pytest.mark.slow
def test_a_process_that_dies_stops_the_others(tmp_path: Path, large: Path) -> None:
    """Kill -9 of one of two ranks: the other ends with an error that says so, and writes no folder."""
    ranks = launched("compress", str(large), "--keep", "0.4", "-o", str(tmp_path / "out"), processes=2)
    state = tmp_path / "out.checkpoint.safetensors"
    while not state.exists() and all(process.poll() is None for process in ranks):
        time.sleep(0.01)
    ranks[1].kill()
    _, message = ranks[0].communicate(timeout=60)
    ranks[1].communicate()
    assert ranks[0].returncode == 1
    assert "another rank stopped" in message
    assert not (tmp_path / "out").exists()
