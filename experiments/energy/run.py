"""Energy lost at equal parameters: SVD, the paper's alternation, and foldflat's default.

Writes one JSON per table and keep ratio to experiments/energy/results; parts of it that are there are not run again.

    python experiments/energy/run.py [--threads 1] [--renew] [--table NAME=FILE:TENSOR ..]
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from clustering_step import full_steps
from shared import DATA, hardware, read_json, write_json

import foldflat
from foldflat.cluster.allocation import largest_equal_rank
from foldflat.cluster.rows import distinct_rows
from foldflat.cluster.seeding import random_partition

RESULTS = Path(__file__).resolve().parent / "results"
KEEP_RATIOS = (0.6, 0.4, 0.2)
PAPER_SUBSPACES = (2, 3, 5, 8, 12)
PAPER_STARTS, PAPER_STEPS = 10, 20
TABLES = {
    "minibert": f"{DATA}/models/minibert/model.safetensors:distilbert.embeddings.word_embeddings.weight",
    "potion-base-2M": f"{DATA}/models/potion-base-2M/model.safetensors:embeddings",
}


def read_table(source: str) -> Tensor:
    """Return the float32 table that FILE:TENSOR names."""
    file, _, tensor = source.rpartition(":")
    with safe_open(file, "pt") as stream:
        return stream.get_tensor(tensor).float()


def paper(table: Tensor, keep: float, k: int, seed: int) -> dict[str, float]:
    """Return what the authors' alternation loses: random balanced starts, equal ranks, the best of ten.

    Every step refits by exact eigenvectors and assigns all rows, as theirs does.
    """
    n, d = table.shape
    rank = largest_equal_rank(n, d, k, keep * n * d)
    started = time.perf_counter()
    rows = distinct_rows(table)
    energy = float(table.double().square().sum())
    seeds = range(seed * PAPER_STARTS, (seed + 1) * PAPER_STARTS)
    ends = (full_steps(rows, random_partition(rows, k, start), k, rank, PAPER_STEPS)[-1] for start in seeds)
    starts = [rows.scale * cost / energy for cost in ends]
    return {
        "k": k,
        "rank": rank,
        "energy_lost": min(starts),
        "worst_start": max(starts),
        "seconds": time.perf_counter() - started,
    }


def ours(table: Tensor, keep: float, method: str, seed: int) -> dict[str, object]:
    """Return what a recipe's default loses."""
    result = foldflat.compress(table, foldflat.EmbeddingRecipe(keep_ratio=keep, method=method, seed=seed))
    report = result.report["tables"][0]
    keys = ("energy_lost", "parameters_before", "parameters_after", "size_bytes_before", "size_bytes_after")
    extra = ("n_subspaces", "n_bases", "ranks", "trials", "seconds", "converged")
    return {key: report[key] for key in (*keys, *extra)}


def fill(path: Path, name: str, table: Tensor, keep: float, seed: int) -> dict[str, Any]:
    """Compute the parts that the JSON at `path` lacks, write each as it is ready, and return all."""
    cell: dict[str, Any] = read_json(path) if path.is_file() else {"paper": []}
    cell |= {"table": name, "shape": list(table.shape), "keep_ratio": keep, "seed": seed, "hardware": hardware()}
    for method, key in (("svd", "svd"), ("subspaces", "ours")):
        if key not in cell:
            cell[key] = ours(table, keep, method, seed)
            write_json(path, cell)
    for rival in ("int8", "int4"):
        if rival not in cell:
            report = foldflat.compress(table, foldflat.EmbeddingRecipe(method=rival)).report["tables"][0]
            cell[rival] = {key: report[key] for key in ("energy_lost", "size_bytes_after")}
    for k in PAPER_SUBSPACES:
        if k not in [run["k"] for run in cell["paper"]]:
            cell["paper"].append(paper(table, keep, k, seed))
            write_json(path, cell)
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--renew", action="store_true", help="run foldflat's part again")
    parser.add_argument("--table", action="append", default=[], help="NAME=FILE:TENSOR; default: two given tables")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    tables = dict(item.split("=", 1) for item in settings.table) or TABLES
    for name, source in tables.items():
        table = read_table(source)
        for keep in KEEP_RATIOS:
            path = RESULTS / f"{name}-{keep}.json"
            if settings.renew and path.is_file():
                write_json(path, {key: part for key, part in read_json(path).items() if key != "ours"})
            cell = fill(path, name, table, keep, settings.seed)
            best = min(run["energy_lost"] for run in cell["paper"])
            lost = cell["ours"]["energy_lost"]
            print(f"{name} {keep}: svd {cell['svd']['energy_lost']:.4f} paper {best:.4f} ours {lost:.4f}", flush=True)


if __name__ == "__main__":
    main()
