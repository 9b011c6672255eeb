"""The table of task quality, from the JSON that run.py left."""

import re
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import ROOT, by_size, off_size, read_json

RESULTS = ROOT / "experiments" / "quality" / "results"
RATIOS = (4, 8, 16, 32)
LABELS = {
    "mixed-weighted": "**mixed**, weighted",
    "mixed": "**mixed**",
    "int8": "int8 rows",
    "int4-g32": "int4, groups of 32",
    "int3-g32": "int3, groups of 32",
    "int2-g32": "int2, groups of 32",
    "pq-weighted": "PQ, weighted",
    "pq": "PQ",
    "svd-int8": "SVD in int8",
    "svd": "SVD in bfloat16",
}


def quality() -> str:
    """Return scores of each task by method and size; methods of one size stand where it is nearest."""
    found = [read_json(file) for file in sorted(RESULTS.glob("*.json"))]
    tasks = sorted({cell["task"] for cell in found}, key=["stsb", "sst2", "qnli", "mrpc"].index)
    return "\n\n".join(_of_task([cell for cell in found if cell["task"] == task]) for task in tasks)


def _of_task(found: list[dict[str, Any]]) -> str:
    whole = [cell for cell in found if cell["method"] == "none"]
    what = f"{whole[0]['task']} ({whole[0]['metric']}), {whole[0]['model']}: {_mean(whole, 'score')} whole"
    rows = {
        label: [cell for cell in found if re.sub(r"-\d+$", "", cell["method"]) == method]
        for method, label in LABELS.items()
    }
    return by_size(what, RATIOS, rows, _entry)


def _entry(found: list[dict[str, Any]], column: int) -> str:
    own = [cell for cell in found if _column(cell) == column]
    if not own:
        return "-"
    if "failed" in own[0]:
        return "does not fit"
    kept = f" ({_mean(own, 'predictions_kept')})" if "predictions_kept" in own[0] else ""
    ratio = statistics.mean(cell["ratio"] for cell in own)
    return f"{_mean(own, 'score')}{kept}{off_size(ratio, column)}"


def _column(cell: dict[str, Any]) -> int:
    asked = re.search(r"-(\d+)$", cell["method"])
    return int(asked[1]) if asked else min(RATIOS, key=lambda ratio: max(ratio / cell["ratio"], cell["ratio"] / ratio))


def _mean(found: list[dict[str, Any]], key: str) -> str:
    values = [100 * cell[key] for cell in found]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
