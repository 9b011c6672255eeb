"""Are planted subspaces found again? 5 of dimension 200 in 768 with noise, from 20 seeds.

Each seed draws a table and its own starts. A subspace is found when the fitted one that is closest to it holds nearly
all of its directions: the mean squared cosine of the principal angles is above 0.95. Writes results/planted.json.

    python experiments/planted/run.py [--threads 2] [--seeds 20] [--rows 8000]
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import hardware, planted_rows, write_json

from foldflat.cluster.fit import fit_table

RESULT = Path(__file__).resolve().parent / "results" / "planted.json"
D, K, RANK, NOISE = 768, 5, 200, 0.02
FOUND = 0.95


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=8000)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    cells = []
    for seed in range(settings.seeds):
        rows, bases, _ = planted(settings.rows, seed)
        started = time.perf_counter()
        fit = fit_table(rows, n_subspaces=K, rank=RANK, init="spectral", seed=seed)
        cosines = agreement(fit.bases, bases)
        energy = float(rows.double().square().sum())
        cells.append(
            {
                "seed": seed,
                "agreement": cosines,
                "found": min(cosines) > FOUND,
                "energy_lost": fit.cost / energy,
                "steps": len(fit.costs),
                "seconds": time.perf_counter() - started,
            }
        )
        print(seed, f"{min(cosines):.4f}", len(fit.costs), f"{cells[-1]['seconds']:.1f} s", flush=True)
    values = {"shape": [settings.rows, D], "k": K, "rank": RANK, "noise": NOISE, "cells": cells}
    found = sum(cell["found"] for cell in cells)
    write_json(RESULT, {**values, "found": found, "of": len(cells), "hardware": hardware()})
    print(f"{found} of {len(cells)}")


if __name__ == "__main__":
    main()
