"""How much wider than the best possible bound the others are: upper bounds of a rate of failures, at 95 %.

The exact binomial bound of Clopper and Pearson is the best for values of 0 and 1; the paired bound sees them as drops
without improvements, the betting and the empirical Bernstein bound as numbers from 0 to 1. Width: bound minus mean.
Writes experiments/certify/results/tightness.json.

    python experiments/certify/tightness.py
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import write_json

from foldflat.certify import (
    bernstein_upper_bound,
    betting_upper_bound,
    binomial_upper_bound,
    paired_upper_bound,
)

RESULT = Path(__file__).resolve().parent / "results" / "tightness.json"
RATES = (0.01, 0.05)
SIZES = (100, 1000, 10_000)
SEEDS = 100
DELTA = 0.05


def widths(rate: float, n: int, seed: int) -> dict[str, float]:
    """Return the width of each bound on one draw."""
    values = (np.random.default_rng([seed, n]).random(n) < rate).astype(np.float64)
    failures, mean = int(values.sum()), float(values.mean())
    bounds = {
        "binomial": binomial_upper_bound(failures, n, DELTA),
        "paired": paired_upper_bound(failures, 0, n, DELTA),
        "betting": betting_upper_bound(values, low=0.0, high=1.0, delta=DELTA),
        "bernstein": bernstein_upper_bound(values, low=0.0, high=1.0, delta=DELTA),
    }
    return {name: bound - mean for name, bound in bounds.items()}


def main() -> None:
    """Compute every cell."""
    rows: list[dict[str, Any]] = []
    for rate in RATES:
        for n in SIZES:
            found = [widths(rate, n, seed) for seed in range(SEEDS)]
            for name in found[0]:
                ratios = [own[name] / own["binomial"] for own in found]
                width = float(np.mean([own[name] for own in found]))
                spread = {"ratio": float(np.mean(ratios)), "ratio_std": float(np.std(ratios, ddof=1))}
                rows.append({"rate": rate, "n": n, "bound": name, "width": width, **spread})
                print(rows[-1], flush=True)
    write_json(RESULT, {"seeds": SEEDS, "delta": DELTA, "rows": rows})


if __name__ == "__main__":
    main()
