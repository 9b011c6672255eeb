"""Minutes and peak memory of `foldflat compress` on a bare 250,002 x 768 table of random plus structure rows.

The table is written to a temporary folder, compressed by the command line in a process of its own, whose peak
resident memory is read from the operating system. Writes benchmarks/results/large_table.json.

    python benchmarks/large_table.py [--threads 2] [--keep 0.4] [--rows 250002]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from shared import hardware, read_json, write_json

RESULT = Path(__file__).resolve().parent / "results" / "large_table.json"
D, PLANTED, RANK = 768, 16, 160


def write_table(file: Path, n: int) -> None:
    """Write rows near 16 subspaces of dimension 160 with a decaying spectrum, plus noise."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, RANK + 1).float().rsqrt()
    bases = [torch.linalg.qr(torch.randn(D, RANK, generator=generator)).Q.T for _ in range(PLANTED)]
    table = torch.empty(n, D)
    for i, rows in enumerate(torch.arange(n).chunk(PLANTED)):
        noise = 0.02 * torch.randn(len(rows), D, generator=generator)
        table[rows] = (torch.randn(len(rows), RANK, generator=generator) * spectrum) @ bases[i] + noise
    save_file({"table": table}, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=float, default=0.4)
    parser.add_argument("--rows", type=int, default=250_002)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.safetensors"
        # in a process of its own: a child that is timed would inherit the peak memory of this one
        writer = get_context("spawn").Process(target=write_table, args=(file, settings.rows))
        writer.start()
        writer.join()
        size = settings.rows * D * torch.float32.itemsize
        target = Path(folder) / "out"
        command = ["foldflat", "compress", str(file), "--keep", str(settings.keep), "-o", str(target), "--json"]
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(settings.threads)},
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        peak = usage.ru_maxrss * 1024
        report = read_json(target / "foldflat.json")["report"]
    table = report["tables"][0]
    torch.set_num_threads(settings.threads)
    values = {
        "shape": [settings.rows, D],
        "keep_ratio": settings.keep,
        "table_bytes": size,
        "seconds": seconds,
        "peak_bytes": peak,
        "peak_over_table": peak / size,
        "energy_lost": table["energy_lost"],
        "n_subspaces": table["n_subspaces"],
        "trials": table["trials"],
        "hardware": hardware(),
    }
    write_json(RESULT, values)
    print({key: values[key] for key in ("seconds", "peak_over_table", "energy_lost", "n_subspaces")})


if __name__ == "__main__":
    main()
