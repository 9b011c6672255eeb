"""Write the tables of README and docs from the JSON that experiments and benchmarks left; with --check, only compare.

A table stands between `<!-- figures: NAME -->` and `<!-- end of figures -->`.

    python experiments/readme_tables.py [--check]
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from certify.tables import examples_for_promises, promises_on_real_data, widths_of_bounds
from filters.tables import at_equal_macs, comparison, largest, networks, shares
from glue.tables import mean_drops, task_scores
from quality.tables import quality
from rates.tables import fewer_bytes, look_ups, rates
from shared import ROOT, read_json

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "experiments" / "filters" / "README.md")
SCALING = ROOT / "benchmarks" / "results" / "scaling.json"
BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def cells(folder: str) -> list[dict[str, Any]]:
    """Return every result of an experiment."""
    return [read_json(file) for file in sorted((ROOT / folder / "results").glob("*.json"))]


def energy() -> str:
    """Return energy lost by table, keep ratio and method."""
    lines = ["| table | kept | SVD | paper's alternation, best k | foldflat | bases | int8 (4 x) | int4 (7 x) |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    found = sorted(cells("experiments/energy"), key=lambda cell: (cell["table"], -cell["keep_ratio"]))
    for cell in found:
        paper = min(cell["paper"], key=lambda run: run["energy_lost"])
        n, d = cell["shape"]
        lines.append(
            f"| {cell['table']} ({n} x {d}) | {cell['keep_ratio']:.0%} | {cell['svd']['energy_lost']:.1%} | "
            f"{paper['energy_lost']:.1%} (k={paper['k']}) | **{cell['ours']['energy_lost']:.1%}** | "
            f"{cell['ours']['n_bases']} | {cell['int8']['energy_lost']:.2%} | {cell['int4']['energy_lost']:.2%} |"
        )
    return "\n".join(lines)


def speed() -> str:
    """Return the benchmarks' ratios."""
    folder = ROOT / "benchmarks" / "results"
    lines = ["| what | figure |", "|---|---|"]
    if (folder / "clustering_step.json").is_file():
        step = read_json(folder / "clustering_step.json")
        ours, full, theirs = (statistics.median(step[f"{side}_seconds"]) for side in ("ours", "full", "theirs"))
        n, d = step["shape"]
        what = f"one step of the alternation, {n} x {d}, k={step['k']}, j={step['j']}, the authors' formulation over"
        faster = f"{theirs:.1f} s / {full:.2f} s = **{step['speedup_on_all_rows']:.0f} x faster**"
        lines.append(f"| {what} ours on all rows | {faster} |")
        faster = f"{theirs:.1f} s / {ours:.2f} s = **{step['speedup']:.0f} x faster**"
        lines.append(
            f"| {what} the mean step of a fit, three of four of which look at a quarter of the rows | {faster} |"
        )
    if (folder / "forward_pass.json").is_file():
        forward = read_json(folder / "forward_pass.json")
        for name, run in forward["passes"].items():
            label = f"forward pass of {forward['model']}, {name} tokens, k={run['n_subspaces']}"
            lines.append(f"| {label}: compressed over original | {run['ratio']:.2f} x |")
    if (folder / "large_table.json").is_file():
        large = read_json(folder / "large_table.json")
        n, d = large["shape"]
        size = f"{large['table_bytes'] / 1e6:.0f} MB"
        what = (
            f"`foldflat compress` of a bare {n:,} x {d} table ({size}) to {large['keep_ratio']:.0%}: time; peak memory"
        )
        lines.append(f"| {what} | {large['seconds'] / 60:.1f} min; {large['peak_over_table']:.1f} x the table |")
    return "\n".join([*lines, *_pruning_speed(folder)])


def _pruning_speed(folder: Path) -> list[str]:
    """Return rows on what sensitivities cost and what fewer multiplications bring."""
    lines = []
    if (folder / "sensitivities.json").is_file():
        found = read_json(folder / "sensitivities.json")
        for name, label in (("resnet20", "ResNet-20"), ("resnet50", "a ResNet-50-sized net, 224 x 224")):
            run = found[name]
            what = f"exact sensitivities of every layer on {run['images']} images, {label}: over their forward pass"
            lines.append(f"| {what} | {run['multiple']:.1f} x |")
    if (folder / "pruned_speed.json").is_file():
        found = read_json(folder / "pruned_speed.json")
        # a cell without times says only what pruning takes
        for cell in (cell for cell in found["cells"].values() if "contiguous" in cell):
            clock = ", seconds of the processor" if cell["clock"] == "processor" else ""
            rounded = f", channels in multiples of {cell['round_to']}" if cell["round_to"] > 1 else ""
            kept = f"{1 / cell['macs_ratio']:.0%} of its MACs{rounded}"
            for batch in cell["contiguous"]["batches"]:
                what = f"a ResNet-50-sized net pruned by {cell['method']} to {kept}: batch {batch}{clock}"
                faster = [_faster(form, cell[form]["batches"][batch]) for form in ("contiguous", "channels_last")]
                lines.append(f"| {what} | {'; '.join(faster)} |")
    return lines


def _faster(form: str, times: dict[str, Any]) -> str:
    return f"{form} **{times['speedup']:.2f} x faster** ({times['share']:.2f} of the ratio of MACs)"


def scaling() -> str:
    """Return seconds against rows, subspaces and processes."""
    found = read_json(SCALING)
    d, k, n = found["d"], found["k"], found["rows"]
    lines = [f"| rows x {d}, k={k} | one pass | per 10,000 rows | whole fit |", "|---|---|---|---|"]
    for cell in found["by_rows"]:
        once, per = cell["pass_seconds"], 1e4 * cell["pass_seconds"] / cell["rows"]
        lines.append(f"| {cell['rows']:,} | {once:.3f} s | {1e3 * per:.1f} ms | {cell['fit_seconds']:.1f} s |")
    lines += ["", f"| subspaces, {n:,} x {d} | one pass |", "|---|---|"]
    lines += [f"| {cell['k']} | {cell['pass_seconds']:.2f} s |" for cell in found["by_subspaces"]]
    most = found["by_rows"][-1]["rows"]
    lines += ["", f"| processes of one thread, {most:,} x {d}, k={k} | one pass | efficiency |", "|---|---|---|"]
    for cell in found["by_processes"]:
        lines.append(f"| {cell['processes']} | {cell['pass_seconds']:.2f} s | {cell['efficiency']:.0%} |")
    return "\n".join([*lines, "", f"({found['hardware']['processor']})"])


def machines() -> str:
    """Return bytes and seconds for a table that no one machine holds, from the measured rate."""
    measured = read_json(SCALING)
    cell = measured["by_subspaces"][-1]
    rate = _products(measured["rows"], measured["d"], cell["k"], measured["d"] // 2) / cell["pass_seconds"]
    n, d, k, rank, size, threads = 10**9, 128, 64, 64, 64, 16
    own, reduced = n / size, 8 * k * d * d
    seconds = _products(own, d, k, rank) / rate / threads
    rows = {
        "table": f"{4 * n * d / 1e9:.0f} GB, {4 * own * d / 1e9:.1f} GB to a machine",
        "multiplications of a pass": f"{_products(own, d, k, rank):.1e} to a machine, {rate:.1e} a second and thread",
        "seconds of a pass": f"{seconds:.0f}",
        "seconds to read the rows at 2 GB/s, where memory does not hold them": f"{4 * own * d / 2e9:.0f}",
        "bytes that a machine sends and receives in a pass": f"{2 * reduced / 1e6:.0f} MB",
        "seconds for that at 10 Gbit/s": f"{2 * reduced / 1.25e9:.2f}",
        "bytes of a checkpoint": f"{4 * k * rank * d / 1e6:.0f} MB",
        "six passes (three, two that meet the budget, one that encodes)": f"{6 * seconds / 60:.1f} minutes",
    }
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in rows.items())])


def _products(n: float, d: int, k: int, rank: int) -> float:
    # the upper half of a Gram matrix is computed in four bands: five eighths of it
    return n * d * k * rank + 0.625 * n * d * d


PLANTED_STARTS = {
    "default": "**default**: spherical, then moves of parts",
    "spherical": "spherical alone (`n_moves=0`)",
    "spectral": 'spectral alone (`init="spectral"`)',
}


def planted() -> str:
    """Return how many planted subspaces are found again, by kind of start."""
    found = read_json(ROOT / "experiments" / "planted" / "results" / "planted.json")
    n, d = found["shape"]
    lines = [
        f"{found['k']} planted subspaces of dimension {found['rank']}, {n:,} x {d} rows, noise {found['noise']}:\n",
        "| start | seeds from which all are found | least mean squared cosine | energy lost |",
        "|---|---|---|---|",
    ]
    for start, name in PLANTED_STARTS.items():
        cells = [cell for cell in found["cells"] if cell["start"] == start]
        worst = min(min(cell["agreement"]) for cell in cells)
        lost = statistics.mean(cell["energy_lost"] for cell in cells)
        lines.append(f"| {name} | {found['found'][start]} of {found['of']} | {worst:.4f} | {lost:.2%} |")
    return "\n".join(lines)


def sampled() -> str:
    """Return what fits to few rows cost more than fits to all of them, and how far a draw's estimate is off."""
    lines = [
        "| table, row weights | rows drawn | uniform | by importance | estimate off, bound: uniform | by importance |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for found in sorted(cells("experiments/sampled"), key=lambda found: found["table"]):
        n, d = found["shape"]
        for size in sorted({cell["rows"] for cell in found["cells"]}):
            ways = [
                [cell for cell in found["cells"] if (cell["sampling"], cell["rows"]) == (way, size)]
                for way in ("uniform", "importance")
            ]
            costs = [f"{_mean(own, 'excess'):+.1%}, {_mean(own, 'excess_after_passes'):+.1%}" for own in ways]
            bounds = [f"{_mean(own, 'estimate_off'):.1%}, {_bound(_mean(own, 'estimate_bound'))}" for own in ways]
            lines.append(f"| {found['table']} ({n} x {d}) | {size:,} | {' | '.join(costs + bounds)} |")
    return "\n".join(lines)


def _bound(error: float) -> str:
    return f"{error:.0%}" if error < 1 else "none"


def _mean(found: list[dict[str, Any]], key: str) -> float:
    return statistics.mean(cell[key] for cell in found)


TABLES: dict[str, Callable[[], str]] = {
    "energy": energy,
    "examples-for-promises": examples_for_promises,
    "promises-on-real-data": promises_on_real_data,
    "widths-of-bounds": widths_of_bounds,
    **{model: partial(mean_drops, model) for model in ("minilm", "minibert")},
    **{f"{model}-tasks": partial(task_scores, model) for model in ("minilm", "minibert")},
    "speed": speed,
    "scaling": scaling,
    "machines": machines,
    "planted": planted,
    "filters": comparison,
    "filters-macs": at_equal_macs,
    "networks": networks,
    "largest": largest,
    "shares": shares,
    "sampled": sampled,
    "rates": rates,
    "fewer-bytes": fewer_bytes,
    "look-ups": look_ups,
    "quality": quality,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a page differs")
    settings = parser.parse_args()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fresh = BLOCK.sub(lambda match: f"{match[1]}\n{TABLES[match['name']]()}\n\n{match[3]}", text)
        if settings.check and fresh != text:
            sys.exit(f"{page.name} differs from the committed results; hint: python experiments/readme_tables.py")
        if not settings.check:
            page.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
