"""What a fit to few rows loses against a fit to all of them, rows drawn uniformly or by importance.

Subspaces of equal rank at equal k, fitted to a sample alone, then carried over all rows by the passes that large tables
get. Every cost is that of all rows. Writes one JSON a table and weighting to results.

    python experiments/sampled/run.py [--threads 1] [--seeds 3]
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import DATA, hardware, planted_rows, write_json

from foldflat.cluster.allocation import largest_equal_rank
from foldflat.cluster.distributed import Alone
from foldflat.cluster.draws import Drawn, draw_by_shares, draw_uniformly
from foldflat.cluster.fit import cheapest_subspace, fit_rows
from foldflat.cluster.groups import Group
from foldflat.cluster.importance import relative_error, rough_bases, row_shares, total_sensitivity
from foldflat.cluster.refine import Refinement, refine
from foldflat.cluster.rows import distinct_rows, every_row
from foldflat.cluster.streaming import PILOT_ROWS
from foldflat.cluster.subspace import squared_distances
from foldflat.cluster.sweep import Block
from foldflat.cluster.trials import SAMPLINGS, SearchSettings

RESULTS = Path(__file__).resolve().parent / "results"
KEEP = 0.4
SIZES = (2048, 4096, 8192)
PASSES, STEPS, TOL = 8, 30, 3e-4
DELTA = 0.05
MODELS = {
    "minibert": (5, f"{DATA}/models/minibert/model.safetensors", "distilbert.embeddings.word_embeddings.weight"),
    "potion-base-2M": (16, f"{DATA}/models/potion-base-2M/model.safetensors", "embeddings"),
}


def rare_cluster(n: int = 20_000, d: int = 64) -> Tensor:
    """Return rows near four subspaces of rank 8, and 0.2 % of them, twenty times as long, near a fifth of rank 4."""
    generator = torch.Generator().manual_seed(0)
    ranks = [8, 8, 8, 8, 4]
    bases = [torch.linalg.qr(torch.randn(d, rank, generator=generator)).Q.T for rank in ranks]
    bases[-1] = 20 * bases[-1]
    members = [*torch.arange(n // 500, n).tensor_split(4), torch.arange(n // 500)]
    return planted_rows(bases, members, 0.1 * torch.randn(n, d, generator=generator), generator)


def cases() -> dict[str, tuple[Tensor, Tensor, int, int]]:
    """Return by name: table, row weights, k and rank."""
    found: dict[str, tuple[Tensor, Tensor, int, int]] = {}
    for name, (k, file, tensor) in MODELS.items():
        with safe_open(file, "pt") as stream:
            table = stream.get_tensor(tensor).float()
        n, d = table.shape
        rank = largest_equal_rank(n, d, k, KEEP * n * d)
        ones = torch.ones(n, dtype=torch.float64)
        found[name] = (table, ones, k, rank)
        found[f"{name}, weights 1/position"] = (table, ones / torch.arange(1, n + 1), k, rank)
        found[f"{name}, weights of squared lengths"] = (table, table.double().square().sum(1), k, rank)
    rare = rare_cluster()
    found["planted, rare cluster"] = (rare, torch.ones(len(rare), dtype=torch.float64), 5, 8)
    return found


def cost(table: Tensor, weights: Tensor, bases: list[Tensor]) -> float:
    """Return the weighted squared distances of all rows to their closest subspace, from residuals."""
    return float((weights * squared_distances(every_row(table), cheapest_subspace(table, bases), bases)).sum())


def carried(block: Block, bases: list[Tensor], rank: int) -> list[Tensor]:
    """Return what passes over all rows make of bases."""
    state = Refinement([Group(basis.clone(), [rank]) for basis in bases], 0.0)
    refine(block, state, float("inf"), max_passes=PASSES, tol=TOL)
    return [group.directions for group in state.groups]


def drawn_rows(block: Block, shares: Tensor | None, size: int, seed: int) -> Drawn:
    """Draw rows by their shares, or uniformly; a row stands for as many as it is unlikely in either case."""
    if shares is not None:
        return draw_by_shares(block, shares, size, seed)
    drawn, each = draw_uniformly(block, len(block), size, seed), len(block) / size
    return Drawn(drawn.rows, each * drawn.weights, each * drawn.counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    for name, case in cases().items():
        found = measure(*case, seeds=settings.seeds)
        path = RESULTS / f"{name.replace(', ', '-').replace(' ', '-').replace('/', '-')}.json"
        write_json(path, {"table": name, **found, "hardware": hardware()})
        for cell in found["cells"]:
            print(
                name, *(cell[key] for key in ("sampling", "rows", "seed", "excess", "excess_after_passes")), flush=True
            )


def measure(table: Tensor, weights: Tensor, k: int, rank: int, *, seeds: int) -> dict[str, Any]:
    """Return the cost of fits to all rows, and by how much fits to samples cost more than the best of those."""
    n, d = table.shape
    block, energies = Block(table, weights, Alone()), weights * table.double().square().sum(1)
    energy = float(energies.sum())
    rows = distinct_rows(table, weights)
    fits = [fit_rows(rows, k, rank, None, seed=seed, max_iter=STEPS, tol=TOL).bases for seed in range(seeds)]
    costs = [cost(table, weights, bases) for bases in fits]
    full = min(costs)
    best, cells = fits[costs.index(full)], []
    asked = SearchSettings((n + k * d) * rank, free=False, n_subspaces=k)
    for seed in range(seeds):
        pilot = draw_uniformly(block, n, PILOT_ROWS, seed).distinct(table.device)
        shares = row_shares(block, rough_bases(pilot, n, asked))
        for size, sampling in product(SIZES, SAMPLINGS):
            uniform = sampling == "uniform"
            drawn = drawn_rows(block, None if uniform else shares, size, seed)
            bases = fit_rows(drawn.distinct(table.device), k, rank, None, seed=seed, max_iter=STEPS, tol=TOL).bases
            sensitivity = total_sensitivity(
                energies, torch.full_like(shares, 1 / n) if uniform else shares, full / energy
            )
            cells.append(
                {
                    "sampling": sampling,
                    "rows": size,
                    "seed": seed,
                    "excess": cost(table, weights, bases) / full - 1,
                    "excess_after_passes": cost(table, weights, carried(block, bases, rank)) / full - 1,
                    "estimate_off": abs(cost(drawn.rows, drawn.weights, best) / full - 1),
                    "estimate_bound": relative_error(sensitivity, size, DELTA),
                }
            )
    values = {"shape": [n, d], "k": k, "rank": rank, "delta": DELTA, "seeds": seeds}
    return {**values, "full_energy_lost": [value / energy for value in costs], "cells": cells}


if __name__ == "__main__":
    main()
