"""Draw the figures of docs from the JSON that benchmarks left; the same JSON gives the same bytes.

Needs the extra [docs].

    python experiments/figures.py [--to docs/figures]
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent))
from shared import ROOT, read_json

FIGURES = ROOT / "docs" / "figures"
SCALING = ROOT / "benchmarks" / "results" / "scaling.json"
# no random names, and no outlines of a font that another machine may lack
STYLE = {"svg.hashsalt": "foldflat", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}


def draw_series(axes: Axes, cells: list[dict[str, Any]], key: str, values: dict[str, str]) -> None:
    """Draw measured seconds against a number on logarithmic axes, and a dashed line that grows in proportion to it."""
    numbers = [cell[key] for cell in cells]
    for value, label in values.items():
        axes.plot(numbers, [cell[value] for cell in cells], "o-", markersize=4, label=label)
    most = cells[-1]["pass_seconds"] / numbers[-1]
    axes.plot(numbers, [most * number for number in numbers], "--", color="grey", linewidth=1, label="in proportion")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylabel("seconds")
    axes.grid(visible=True, which="major", linewidth=0.3)
    axes.legend(frameon=False)


def scaling(path: Path) -> None:
    """Draw the cost of a pass and of a fit against rows, and of a pass against subspaces."""
    found = read_json(SCALING)
    d, k, n = found["d"], found["k"], found["rows"]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_series(left, found["by_rows"], "rows", {"pass_seconds": "one pass", "fit_seconds": "whole fit"})
    left.set_xlabel(f"rows n (d = {d}, k = {k})")
    draw_series(right, found["by_subspaces"], "k", {"pass_seconds": "one pass"})
    right.set_xlabel(f"subspaces k (n = {n:,}, d = {d})")
    ticks = [cell["k"] for cell in found["by_subspaces"]]
    right.set_xticks(ticks, [str(tick) for tick in ticks])
    right.minorticks_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=FIGURES)
    with mpl.rc_context(STYLE):
        scaling(parser.parse_args().to / "scaling.svg")
