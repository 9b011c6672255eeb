"""Seconds of an alternation step at 30,522 x 768, k=5, j=384, against the authors' formulation in numpy.

Theirs, as this file restates it: the distance to a flat is the length of the projection on its null space
(scipy.linalg.null_space, float64), the refit is the thin SVD of each cluster's rows. Both sides start from the same
partition and run in turn; the ratio is of the medians. Writes benchmarks/results/clustering_step.json.

    python benchmarks/clustering_step.py [--threads 2] [--repeats 3]
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import null_space
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from shared import hardware, write_json

from foldflat.cluster.alternate import Alternation, alternate, equal_ranks
from foldflat.cluster.rows import distinct_rows
from foldflat.cluster.seeding import random_partition

N, D, K, J = 30522, 768, 5, 384
STEPS = 4
RESULT = Path(__file__).resolve().parent / "results" / "clustering_step.json"


def their_step(rows: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], float]:
    """Refit each cluster by its thin SVD, then measure every row against the null space of every flat."""
    distances = np.empty((len(rows), K))
    for i in range(K):
        _, _, vectors = np.linalg.svd(rows[labels == i], full_matrices=False)
        outside = null_space(vectors[:J])
        distances[:, i] = np.square(rows @ outside).sum(1)
    return distances.argmin(1), float(distances.min(1).sum())


def our_step(rows: Any, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Run four steps of the alternation, as a fit does; return the labels and cost of the first."""
    state: Alternation = alternate(rows, labels, K, equal_ranks(J), max_iter=STEPS, tol=0.0)
    return state.labels, state.costs[0] * rows.scale


def products_floor(table: torch.Tensor) -> float:
    """Return the seconds of the products alone: all rows with all bases, and the Gram matrices."""
    bases = torch.randn(K * J, D)
    started = time.perf_counter()
    for part in table.split(8192):
        part @ bases.T
        part.T @ part
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    spectrum = torch.arange(1, D + 1).float().rsqrt()
    table = torch.randn(N, D, generator=torch.Generator().manual_seed(0)) * spectrum
    rows = distinct_rows(table)
    start = random_partition(rows, K, 0)
    by_row = torch.empty(N, dtype=torch.int64)
    by_row[rows.index] = start
    ours, theirs, floors = [], [], []
    our_step(rows, start)
    with threadpool_limits(settings.threads):
        for _ in range(settings.repeats):
            begun = time.perf_counter()
            _, our_cost = our_step(rows, start)
            ours.append((time.perf_counter() - begun) / STEPS)
            floors.append(products_floor(table))
            begun = time.perf_counter()
            _, their_cost = their_step(table.double().numpy(), by_row.numpy())
            theirs.append(time.perf_counter() - begun)
            print(f"ours {ours[-1]:.2f} s, products {floors[-1]:.2f} s, theirs {theirs[-1]:.2f} s", flush=True)
    medians = [statistics.median(seconds) for seconds in (ours, theirs, floors)]
    values = {
        "shape": [N, D],
        "k": K,
        "j": J,
        "ours_seconds": ours,
        "theirs_seconds": theirs,
        "products_seconds": floors,
        "speedup": medians[1] / medians[0],
        "over_products": medians[0] / medians[2],
        "relative_cost_difference": abs(our_cost - their_cost) / their_cost,
        "hardware": hardware(),
    }
    write_json(RESULT, values)
    print({key: values[key] for key in ("speedup", "over_products", "relative_cost_difference")})


if __name__ == "__main__":
    main()
