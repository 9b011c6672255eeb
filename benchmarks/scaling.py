"""How a fit grows: seconds against rows, against subspaces, and on 1, 2 and 4 processes of one thread.

What is timed is one pass over all rows (assignment and Gram matrices, `foldflat.cluster.sweep`) and, against rows, the
whole of `fit_source` as well, whose search sees a sample of 32,768. Rows lie near 16 subspaces of dimension 16.
Writes benchmarks/results/scaling.json.

    python benchmarks/scaling.py [--threads 1] [--repeats 3]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from shared import hardware, planted_rows, read_json, write_json

from foldflat.cluster.distributed import Alone, Team, launched_team
from foldflat.cluster.groups import Group
from foldflat.cluster.streaming import fit_source
from foldflat.cluster.sweep import Block, assign_and_total
from foldflat.cluster.trials import SearchSettings

RESULT = Path(__file__).resolve().parent / "results" / "scaling.json"
D, PLANTED, RANK = 64, 16, 16
ROWS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
SUBSPACES = (2, 4, 8, 16, 32, 64)
RANKS = (1, 2, 4)
N_FIXED, K_FIXED = 300_000, 8


def table(n: int, seed: int = 0) -> torch.Tensor:
    """Return rows (n, d) near the planted subspaces."""
    generator = torch.Generator().manual_seed(seed)
    bases = torch.linalg.qr(torch.randn(PLANTED, D, RANK, generator=generator)).Q.mT
    noise = 0.05 * torch.randn(n, D, generator=generator)
    rows = planted_rows(bases, torch.arange(n).chunk(PLANTED), noise, generator)
    return rows[torch.randperm(n, generator=generator)]


def groups(k: int) -> list[Group]:
    """Return k subspaces of half the dimension."""
    generator = torch.Generator().manual_seed(1)
    return [Group(torch.linalg.qr(torch.randn(D, D // 2, generator=generator)).Q.T, [D // 2]) for _ in range(k)]


def pass_seconds(rows: torch.Tensor, k: int, repeats: int, team: Team) -> float:
    """Return the median time of one pass, the slowest rank's."""
    block, subspaces, seconds = Block(rows, None, team), groups(k), []
    for _ in range(repeats + 1):
        team.total(torch.zeros(1))
        started = time.perf_counter()
        assign_and_total(block, subspaces, 0.0)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def on_processes(size: int, repeats: int) -> float:
    """Return the time of a pass over the largest table shared by `size` processes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(size)]
        command = [sys.executable, *launcher, __file__, "--worker", str(file), "--repeats", str(repeats)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
        return float(read_json(file)["seconds"])


def worker(file: str, repeats: int) -> None:
    """Time a pass on this rank's rows."""
    torch.set_num_threads(1)
    with launched_team() as team:
        own = ROWS[-1] // team.size
        seconds = pass_seconds(table(own, team.rank), K_FIXED, repeats, team)
        if team.rank == 0:
            write_json(Path(file), {"seconds": seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.worker:
        worker(settings.worker, settings.repeats)
        return
    torch.set_num_threads(settings.threads)
    values: dict[str, object] = {"d": D, "hardware": hardware(), "k": K_FIXED, "rows": N_FIXED}
    rows = table(ROWS[-1])
    by_rows = []
    for n in ROWS:
        once = pass_seconds(rows[:n], K_FIXED, settings.repeats, Alone())
        started = time.perf_counter()
        fit_source(rows[:n], None, SearchSettings(0.5 * n * D, n_subspaces=K_FIXED, free=False, max_iter=20))
        by_rows.append({"rows": n, "pass_seconds": once, "fit_seconds": time.perf_counter() - started})
        print(by_rows[-1], flush=True)
    values["by_rows"] = by_rows
    values["by_subspaces"] = [
        {"k": k, "pass_seconds": pass_seconds(rows[:N_FIXED], k, settings.repeats, Alone())} for k in SUBSPACES
    ]
    print(values["by_subspaces"], flush=True)
    del rows
    by_processes = [{"processes": size, "pass_seconds": on_processes(size, settings.repeats)} for size in RANKS]
    for cell in by_processes:
        cell["efficiency"] = by_processes[0]["pass_seconds"] / (cell["pass_seconds"] * cell["processes"])
    values["by_processes"] = by_processes
    print(by_processes, flush=True)
    write_json(RESULT, values)


if __name__ == "__main__":
    main()
