"""Examples that a promise takes: of a drop in accuracy, and of a rate of other answers, by what is true.

Writes experiments/certify/results/needed.json; nothing is drawn, so there are no seeds.

    python experiments/certify/needed.py
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import write_json

from foldflat.certify import Risk, examples_needed

RESULT = Path(__file__).resolve().parent / "results" / "needed.json"
SEEN = 20_000
CHANGED = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08)
LIMITS = (0.005, 0.01, 0.02)
CONFIDENCES = (0.9, 0.95, 0.99)


def drop(changed: float, kind: str) -> Risk:
    """Return a paired drop of mean zero: half of the changed answers got worse, half better."""
    half = round(SEEN * changed / 2)
    values = np.repeat([1.0, -1.0, 0.0], [half, half, SEEN - 2 * half])
    return Risk("accuracy drop", values, -1.0, 1.0, kind)


def rate(changed: float) -> Risk:
    """Return a rate of other answers."""
    count = round(SEEN * changed)
    return Risk("disagreement", np.repeat([1.0, 0.0], [count, SEEN - count]), 0.0, 1.0, "binomial")


def main() -> None:
    """Compute every cell."""
    rows: list[dict[str, Any]] = []
    for changed in CHANGED:
        for limit in LIMITS:
            for confidence in CONFIDENCES:
                delta = 1 - confidence
                needed = {
                    "paired": examples_needed(drop(changed, "paired"), limit, delta),
                    "betting": examples_needed(drop(changed, "betting"), limit, delta),
                    "rate": examples_needed(rate(changed), limit, delta),
                }
                rows.append({"changed": changed, "limit": limit, "confidence": confidence, **needed})
                print(rows[-1], flush=True)
    write_json(RESULT, {"seen": SEEN, "rows": rows})


if __name__ == "__main__":
    main()
