"""Tables of docs/bytes.md, from the JSON: what is left at each size, bytes for a rival's error, time of look-ups."""

import math
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import ROOT, by_size, off_size, read_json

RESULTS = ROOT / "experiments" / "rates" / "results"
NAMES = {
    "potion-base-2M": "potion-base-2M",
    "minibert": "minibert",
    "minibert-sst2": "minibert after SST-2",
    "synthetic": "250,002 x 768, synthetic",
}
RATIOS = (2, 4, 6, 8, 12, 16, 20, 24, 32, 40)
LABELS = {
    "mixed-weighted": "**mixed**, weighted",
    "mixed": "**mixed**",
    "int8": "int8 groups",
    "int4": "int4 groups",
    "int3": "int3 groups",
    "int2": "int2 groups",
    "pq-weighted": "PQ, weighted",
    "pq": "PQ",
    "opq": "OPQ",
    "rq": "residual quantiser",
    "svd-int4": "SVD in int4",
    "svd-int8": "SVD in int8",
    "svd": "SVD in bfloat16",
    "subspaces-int4": "subspaces in int4",
    "paper-bfloat16": "the paper's subspaces, bfloat16",
}
OURS = "mixed-weighted"
# below it the error is int8's own, above it the smaller table is another matter
LEAST, MOST = 8.0, 40.0


def method_of(cell: dict[str, Any]) -> str:
    """Return the method of a cell without its size or group."""
    return re.sub(r"-(\d+|g\d+)$", "", cell["method"])


def cells(table: str) -> list[dict[str, Any]]:
    """Return the cells of a table that kept to their budget, from the largest."""
    found = [read_json(file) for file in sorted(RESULTS.glob("*.json"))]
    return sorted((cell for cell in found if cell["table"] == table and "bytes" in cell), key=lambda c: c["ratio"])


def rates() -> str:
    """Return a table for each table that was stored: sizes across, methods down."""
    return "\n\n".join(_of_table(name) for name in NAMES if cells(name))


def _of_table(name: str) -> str:
    found = cells(name)
    rows = {label: [cell for cell in found if method_of(cell) == method] for method, label in LABELS.items()}
    return by_size(NAMES[name], RATIOS, rows, _entry)


def _entry(found: list[dict[str, Any]], column: int) -> str:
    own = [cell for cell in found if _column(cell) == column]
    if not own:
        return "-"
    cell = min(own, key=lambda cell: abs(math.log(cell["ratio"] / column)))
    left = f"{100 * cell['energy_lost_by_counts']:.3g} ({100 * cell['neighbours_kept']:.0f})"
    return left + off_size(cell["ratio"], column)


def _column(cell: dict[str, Any]) -> int:
    return min(RATIOS, key=lambda ratio: abs(math.log(ratio / cell["ratio"])))


def fewer_bytes() -> str:
    """Return how many fewer bytes trellis codes need than each rival at its errors between two sizes."""
    lines = ["| rival | " + " | ".join(NAMES[name] for name in NAMES if cells(name)) + " |"]
    lines.append("|---" * lines[0].count(" | ") + "|---|")
    for method, label in LABELS.items():
        entries = [_saved(cells(name), method) for name in NAMES if cells(name)]
        if method not in {"mixed", OURS} and any(entry != "-" for entry in entries):
            lines.append(f"| {label} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _saved(found: list[dict[str, Any]], method: str) -> str:
    ours = [cell for cell in found if method_of(cell) == OURS]
    rivals = [cell for cell in found if method_of(cell) == method and LEAST <= cell["ratio"] <= MOST]
    if not ours:
        return "-"
    saved = [own for own in (_fewer(ours, cell) for cell in rivals) if own is not None]
    # an error beyond all of ours is reached by our smallest table and more
    beyond = [cell for cell in rivals if cell["energy_lost_by_counts"] > ours[-1]["energy_lost_by_counts"]]
    least = [own for own in (1 - ours[-1]["bytes"] / cell["bytes"] for cell in beyond) if own > 0]
    found = saved or least
    if not found:
        return "-"
    low, high = f"{min(found):.0%}", f"{max(found):.0%}"
    return f"{'' if saved else 'over '}{low if low == high else f'{low} to {high}'}"


def _fewer(ours: list[dict[str, Any]], rival: dict[str, Any]) -> float | None:
    """Return the share of a rival's bytes that ours save at its error, None where it is outside of what was measured.

    Between two sizes the logarithm of the error is taken to be linear in that of the bytes.
    """
    error = rival["energy_lost_by_counts"]
    for large, small in pairwise(ours):
        low, high = large["energy_lost_by_counts"], small["energy_lost_by_counts"]
        if low <= error <= high:
            share = math.log(error / low) / math.log(high / low)
            needed = large["bytes"] * (small["bytes"] / large["bytes"]) ** share
            return float(1 - needed / rival["bytes"])
    return None


def look_ups() -> str:
    """Return the time of look-ups and heads of each layout, over torch's int8 gather and the dense product."""
    found = read_json(ROOT / "benchmarks" / "results" / "lookup_processor.json")
    lines = [
        "| 250,002 x 768 as | times smaller | 16 tokens | 4,096 tokens | with 32,768 rows kept | head of 16 vectors |",
        "|---|---|---|---|---|---|",
    ]
    for name, layout in found["layouts"].items():
        times = layout["look_ups"]
        few, many = times["zipf 16"], times["zipf 4096"]
        lines.append(
            f"| {name} | {layout['smaller']:.1f} | {few['milliseconds']:.2g} ms | {many['milliseconds']:.2g} ms, "
            f"{many['ratio']:.1f} x | {times['zipf 4096, 32768 rows kept']['ratio']:.1f} x | "
            f"{layout['head']['ratio']:.2g} x |"
        )
    return "\n".join(lines)
