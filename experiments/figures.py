"""Draw the figures of docs from the JSON that benchmarks left; the same JSON gives the same bytes.

Needs the extra [docs].

    python experiments/figures.py [--to docs/figures]
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent))
from filters.tables import LABELS, NETS, RATIOS, accuracies, cells
from rates import tables as rates_tables
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
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def filters(path: Path) -> None:
    """Draw accuracy after the same short retraining against the parameters kept, a panel for each network."""
    found = cells()
    shown = ("reconstruction", "pfp", "l1", "taylor", "torch-pruning-magnitude", "torch-pruning-taylor", "random")
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, (net, title) in zip(figure.subplots(1, len(NETS)), NETS.items(), strict=True):
        baseline = next(cell for cell in found if cell["net"] == net and "test" in cell)
        axes.axhline(100 * baseline["test"]["accuracy"], color="grey", linewidth=1, linestyle="--")
        for method in shown:
            points = {keep: accuracies(found, net, method, keep, "after") for keep in RATIOS}
            drawn = [(100 * keep, statistics.mean(values)) for keep, values in points.items() if values]
            if drawn:
                axes.plot(*zip(*drawn, strict=True), "o-", markersize=4, label=LABELS[method].replace("*", ""))
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("parameters kept, %")
        axes.grid(visible=True, linewidth=0.3)
    figure.axes[0].set_ylabel("accuracy after 200 steps, %")
    figure.axes[0].legend(frameon=False, fontsize=7)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def rates(path: Path) -> None:
    """Draw the energy lost by counts against how many times smaller a table is, a panel for each table."""
    stored = {name: title for name, title in rates_tables.NAMES.items() if rates_tables.cells(name)}
    figure = Figure(figsize=(10, 3.2 * -(-len(stored) // 2) + 0.8), layout="constrained")
    colours = dict(zip(rates_tables.LABELS, mpl.colormaps["tab20"].colors, strict=False))
    lines: dict[str, Any] = {}
    for axes, (name, title) in zip(figure.subplots(-(-len(stored) // 2), 2).flat, stored.items(), strict=False):
        for method, label in rates_tables.LABELS.items():
            own = [cell for cell in rates_tables.cells(name) if rates_tables.method_of(cell) == method]
            if own:
                points = [(cell["ratio"], 100 * cell["energy_lost_by_counts"]) for cell in own]
                width = 2.4 if method.startswith("mixed") else 0.8
                style = {"color": colours[method], "linewidth": width, "markersize": 3}
                (lines[label.replace("*", "")],) = axes.plot(*zip(*points, strict=True), "o-", **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(rates_tables.RATIOS, [str(ratio) for ratio in rates_tables.RATIOS])
        axes.minorticks_off()
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("times smaller")
        axes.set_ylabel("energy lost by counts, %")
        axes.grid(visible=True, linewidth=0.3)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=FIGURES)
    folder = parser.parse_args().to
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        scaling(folder / "scaling.svg")
        filters(folder / "filters.svg")
        rates(folder / "rates.svg")
