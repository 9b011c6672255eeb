"""Seconds of an alternation step at 30,522 x 768, k=5, j=384, against the authors' formulation in numpy.

Theirs, as this file restates it: the distance to a flat is the length of the projection on its null space
(scipy.linalg.null_space, float64), the refit is the thin SVD of each cluster's rows. Ours is the mean of the 20 steps
of a fit, as many as theirs takes; three of four assign a quarter of the rows. `full_seconds` is the mean where every
step assigns all rows, whose first costs are theirs. The products are what such a step cannot avoid, in the precision
it uses: all rows with all bases, and half of each Gram matrix in float32. All start from the same partition and run
in turn; the ratios are of the medians. `--clock processor` counts the seconds that this process computes, which with
one thread is what others on the machine disturb least. Writes benchmarks/results/clustering_step.json, or
clustering_step_processor.json.

    python benchmarks/clustering_step.py [--threads 2] [--repeats 3] [--clock wall]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import null_space
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from shared import hardware, planted_rows, write_json

from foldflat.cluster.alternate import alternate, equal_ranks
from foldflat.cluster.assignment import assign_rows, narrow_products_pay
from foldflat.cluster.grams import ClusterGrams
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.seeding import random_partition
from foldflat.cluster.subspace import eigenbases_of, members_by_label

Array = NDArray[Any]
Clock = Callable[[], float]

N, D, K, J = 30522, 768, 5, 384
PLANTED, RANK = 16, 160
STEPS = 20
RESULTS = Path(__file__).resolve().parent / "results"
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def gaussian_table() -> torch.Tensor:
    """Return normal rows of a decaying spectrum, the same for all: there is nothing to cluster."""
    spectrum = torch.arange(1, D + 1).float().rsqrt()
    return torch.randn(N, D, generator=torch.Generator().manual_seed(0)) * spectrum


def planted_table() -> torch.Tensor:
    """Return rows near 16 subspaces of dimension 160 with a decaying spectrum, plus noise: many rows move."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, RANK + 1).float().rsqrt()
    bases = [torch.linalg.qr(torch.randn(D, RANK, generator=generator)).Q.T for _ in range(PLANTED)]
    noise = 0.02 * torch.randn(N, D, generator=generator)
    return planted_rows(bases, torch.arange(N).chunk(PLANTED), noise, generator, spectrum)


def their_step(rows: Array, labels: Array, k: int, rank: int) -> tuple[Array, float]:
    """Refit each cluster by its thin SVD, then measure every row against the null space of every flat."""
    distances = np.empty((len(rows), k))
    for i in range(k):
        _, _, vectors = np.linalg.svd(rows[labels == i], full_matrices=False)
        distances[:, i] = np.square(rows @ null_space(vectors[:rank])).sum(1)
    return distances.argmin(1), float(distances.min(1).sum())


def full_steps(rows: WeightedRows, labels: torch.Tensor, k: int, rank: int, steps: int) -> list[float]:
    """Take their steps with our algebra, each on all rows; return the costs of the refits, until no row moves."""
    grams, costs = ClusterGrams(rows, k), []
    for _ in range(steps):
        values, vectors = eigenbases_of(grams.followed(labels))
        costs.append(float(values[:, rank:].sum(dtype=torch.float64)))
        bases = [vectors[i, :rank].clone() for i in range(k)]
        narrow = narrow_products_pay(rows, k * rank, costs[-1] / float(values.sum()))
        before, labels = labels, assign_rows(rows, bases, narrow=narrow)[0]
        if torch.equal(before, labels):
            break
    return costs


def products(rows: WeightedRows, labels: torch.Tensor, clock: Clock, *, narrow: bool) -> float:
    """Return the seconds of the products of a step on all rows, with nothing around them."""
    dtype = torch.bfloat16 if narrow else torch.float32
    bases, table = torch.randn(K * J, D).to(dtype), rows.table.to(dtype)
    members = [rows.block(chosen) for chosen in members_by_label(labels, K)]
    begun = clock()
    for part in table.split(2048):
        part @ bases.T
    between = clock()
    for block in members:
        block.T @ block
    # a Gram matrix is symmetric
    return between - begun + (clock() - between) / 2


def our_seconds(rows: WeightedRows, start: torch.Tensor, clock: Clock) -> tuple[float, float, list[float]]:
    """Return the seconds per step of a fit, those per step on all rows, and the costs of the latter."""
    begun = clock()
    state = alternate(rows, start, K, equal_ranks(J), max_iter=STEPS, tol=0.0)
    between = clock()
    costs = full_steps(rows, start, K, J, STEPS)
    return (between - begun) / len(state.costs), (clock() - between) / len(costs), costs


def measured(table: torch.Tensor, repeats: int, clock: Clock) -> dict[str, Any]:
    """Run both sides in turn on one table."""
    rows = distinct_rows(table)
    start = random_partition(rows, K, 0)
    ours, full, floors, theirs = [], [], [], []
    wide, labels = table.double().numpy(), start[rows.inverse].numpy()
    for _ in range(repeats):
        step, full_step, costs = our_seconds(rows, start, clock)
        ours.append(step)
        full.append(full_step)
        floors.append(products(rows, start, clock, narrow=narrow_products_pay(rows, K * J, 1.0)))
        begun = clock()
        moved, _ = their_step(wide, labels, K, J)
        theirs.append(clock() - begun)
        print(
            f"ours {step:.2f} s, on all rows {full_step:.2f} s, products {floors[-1]:.2f} s, theirs {theirs[-1]:.2f} s"
        )
    # their refit after the first step, from their labels: what the second cost of ours has to be
    tails = [np.square(np.linalg.svd(wide[moved == i], compute_uv=False)[J:]).sum() for i in range(K)]
    medians = [statistics.median(seconds) for seconds in (ours, full, floors, theirs)]
    return {
        "ours_seconds": ours,
        "full_seconds": full,
        "products_seconds": floors,
        "theirs_seconds": theirs,
        "speedup": medians[3] / medians[0],
        "speedup_on_all_rows": medians[3] / medians[1],
        "over_products": medians[0] / medians[2],
        "full_over_products": medians[1] / medians[2],
        "relative_cost_difference": abs(costs[1] * rows.scale - sum(tails)) / sum(tails),
    }


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that timed comparisons share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    return parser


def write_result(name: str, values: dict[str, Any], settings: argparse.Namespace) -> None:
    """Write the figures, with what they were measured on, to a file that tells the clocks apart."""
    torch.set_num_threads(settings.threads)
    values |= {"load_average": os.getloadavg(), "hardware": hardware()}
    write_json(RESULTS / f"{name}{'' if settings.clock == 'wall' else '_processor'}.json", values)


def main() -> None:
    settings = command_line(__doc__).parse_args()
    torch.set_num_threads(settings.threads)
    values: dict[str, Any] = {"shape": [N, D], "k": K, "j": J, "steps": STEPS, "clock": settings.clock}
    with threadpool_limits(settings.threads):
        values |= measured(planted_table(), settings.repeats, CLOCKS[settings.clock])
        values["without_clusters"] = measured(gaussian_table(), settings.repeats, CLOCKS[settings.clock])
    write_result("clustering_step", values, settings)


if __name__ == "__main__":
    main()
