"""Are planted subspaces found again? 5 of dimension 200 in 768 with noise, from 20 seeds.

Each seed draws a table and its own starts: the estimator's default (spherical, one round of moves), the same without
moves, and spectral without moves. A subspace is found when the fitted one that is closest to it holds nearly
all of its directions: the mean squared cosine of the principal angles is above 0.95. Writes results/planted.json.

    python experiments/planted/run.py [--threads 2] [--seeds 20] [--rows 8000] [--starts default ..]
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import hardware, planted_rows, write_json

from foldflat.cluster.fit import fit_table

RESULT = Path(__file__).resolve().parent / "results" / "planted.json"
D, K, RANK, NOISE = 768, 5, 200, 0.02
FOUND = 0.95
STARTS: dict[str, dict[str, Any]] = {
    "default": {"init": "spherical", "n_moves": 1},
    "spherical": {"init": "spherical", "n_moves": 0},
    "spectral": {"init": "spectral", "n_moves": 0},
}


def planted(n: int, seed: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return rows (n, d) near five random subspaces, the bases, and the subspace of each row."""
    generator = torch.Generator().manual_seed(seed)
    bases = [torch.linalg.qr(torch.randn(D, RANK, generator=generator)).Q.T for _ in range(K)]
    labels = torch.randint(K, (n,), generator=generator)
    members = [torch.nonzero(labels == i).squeeze(1) for i in range(K)]
    return planted_rows(bases, members, NOISE * torch.randn(n, D, generator=generator), generator), bases, labels


def agreement(found: list[Tensor], bases: list[Tensor]) -> list[float]:
    """Return, for each planted basis, the mean squared cosine to the closest one that was found."""
    return [max(float((basis @ other.T).square().sum() / RANK) for other in found) for basis in bases]


def measured(n: int, seed: int, starts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield what each kind of start finds in the table of one seed."""
    rows, bases, _ = planted(n, seed)
    energy = float(rows.double().square().sum())
    for start in starts:
        started = time.perf_counter()
        fit = fit_table(rows, n_subspaces=K, rank=RANK, seed=seed, **STARTS[start])
        cosines = agreement(fit.bases, bases)
        cell = {
            "seed": seed,
            "start": start,
            "agreement": cosines,
            "found": min(cosines) > FOUND,
            "energy_lost": fit.cost / energy,
            "steps": len(fit.costs),
            "seconds": time.perf_counter() - started,
        }
        print(seed, start, f"{min(cosines):.4f}", cell["steps"], f"{cell['seconds']:.1f} s", flush=True)
        yield cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    cells = [cell for seed in range(settings.seeds) for cell in measured(settings.rows, seed, settings.starts)]
    found = {start: sum(cell["found"] for cell in cells if cell["start"] == start) for start in settings.starts}
    values = {"shape": [settings.rows, D], "k": K, "rank": RANK, "noise": NOISE, "cells": cells}
    write_json(RESULT, {**values, "found": found, "of": settings.seeds, "hardware": hardware()})
    print(found, "of", settings.seeds)


if __name__ == "__main__":
    main()
