"""Tables of the pruning experiment, from its JSON; used by readme_tables.py."""

import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import ROOT, read_json

LABELS = {
    "reconstruction": "**foldflat default** (one by one, refitted)",
    "pfp": "PFP, deterministic",
    "pfp-random": "PFP, random",
    "pfp-hybrid": "PFP, hybrid",
    "l1": "L1",
    "l2": "L2",
    "batchnorm": "batch norm scale",
    "taylor": "Taylor",
    "random": "random",
    "torch-pruning-magnitude": "Torch-Pruning, magnitude",
    "torch-pruning-taylor": "Torch-Pruning, Taylor",
    "pfp-refit": "PFP, refitted",
    "l2-refit": "L2, refitted",
}
NETS = {"resnet20": "ResNet-20", "vgg": "plain VGG", "projection": "ResNet with projections"}
RATIOS = (0.8, 0.6, 0.4, 0.2)
FOLDER = ROOT / "experiments" / "filters"


def cells() -> list[dict[str, Any]]:
    """Return every cell that was run, baselines among them."""
    found = [read_json(file) for file in sorted((FOLDER / "results").glob("*.json"))]
    return [{"measure": "parameters"} | cell for cell in found]


def accuracies(found: list[dict[str, Any]], net: str, method: str, keep: float, when: str) -> list[float]:
    """Return accuracies in percent at a size in parameters, one for each seed."""
    return [100 * cell[when]["accuracy"] for cell in of_method(found, net, method, keep) if when in cell]


def of_method(
    found: list[dict[str, Any]], net: str, method: str, keep: float, measure: str = "parameters"
) -> list[dict[str, Any]]:
    """Return the cells of a method at a size, one for each seed."""
    asked = (net, method, keep, measure)
    return [c for c in found if asked == tuple(c.get(key) for key in ("net", "method", "keep_ratio", "measure"))]


def comparison() -> str:
    """Return a table for each network: accuracy before and after retraining by method and size."""
    found = cells()
    return "\n\n".join(_of_net(found, net) for net in NETS)


def _of_net(found: list[dict[str, Any]], net: str) -> str:
    baseline = next(cell for cell in found if cell["net"] == net and "test" in cell)
    lines = [f"**{NETS[net]}**, {100 * baseline['test']['accuracy']:.1f} % unpruned:", ""]
    lines.append("| method | " + " | ".join(f"{keep:.0%}: before | after" for keep in RATIOS) + " |")
    lines.append("|---|" + "---|---|" * len(RATIOS))
    for method, label in LABELS.items():
        values = [accuracies(found, net, method, keep, when) for keep in RATIOS for when in ("before", "after")]
        if any(values):
            lines.append(f"| {label} | {' | '.join(map(_spread, values))} |")
        elif failures := {c["failed"] for c in found if (c["net"], c.get("method")) == (net, method) and "failed" in c}:
            lines.append(f"| {label} | {min(failures)} {'| ' * 2 * len(RATIOS)}".rstrip() + " |")
    return "\n".join(lines)


def at_equal_macs() -> str:
    """Return a table of every network at one size in multiplications: what is left, and accuracy."""
    found, keep = cells(), 0.6
    lines = [
        f"| network | method | MACs kept | parameters kept | {keep:.0%} of MACs: before | after |",
        "|---|---|---|---|---|---|",
    ]
    for net, method in ((net, method) for net in NETS for method in LABELS):
        own = [cell for cell in of_method(found, net, method, keep, "macs") if "after" in cell]
        if own:
            kept = (f"{statistics.mean(cell[key] for cell in own):.0%}" for key in ("macs_kept", "parameters_kept"))
            scores = (_spread([100 * cell[when]["accuracy"] for cell in own]) for when in ("before", "after"))
            lines.append(f"| {NETS[net]} | {LABELS[method]} | {' | '.join((*kept, *scores))} |")
    return "\n".join(lines)


def networks() -> str:
    """Return what the networks are, and how they score."""
    lines = ["| name | shortcuts | parameters | MMACs | accuracy |", "|---|---|---|---|---|"]
    shortcuts = {"resnet20": "zero-padded, without parameters", "vgg": "none", "projection": "1 x 1 projections"}
    lines += [
        f"| `{cell['net']}` | {shortcuts[cell['net']]} | {cell['parameters']:,} | {cell['macs'] / 1e6:.1f} | "
        f"{cell['test']['accuracy']:.2%} |"
        for cell in cells()
        if "test" in cell
    ]
    return "\n".join(lines)


def largest() -> str:
    """Return what half a point allows on each network that was tried."""
    lines = [
        "| network | parameters removed | MACs removed | before | after | within 0.5 points |",
        "|---|---|---|---|---|---|",
    ]
    for file in sorted((FOLDER / "largest").glob("*.json")):
        found = read_json(file)
        name = f"{NETS[found['net']]}, {found['test']['accuracy']:.2%}"
        lines += [
            f"| {name} | {1 - cell['parameters_kept']:.1%} | {1 - cell['macs_kept']:.1%} | "
            f"{cell['before']['accuracy']:.2%} | {cell['after']['accuracy']:.2%} | "
            f"{'yes' if cell['within'] else 'no'} |"
            for cell in found["sizes"]
        ]
    return "\n".join(lines)


def shares() -> str:
    """Return how concentrated sensitivities are on each network, and what one epsilon makes of it."""
    found = read_json(FOLDER / "shares.json")
    lines = [
        f"| network | S / channels | least share | largest share | epsilon at {found['keep_ratio']:.0%} | delta |",
        "|---|---|---|---|---|---|",
    ]
    for net, values in found["nets"].items():
        groups = values["groups"]
        saturation = sum(group["S"] for group in groups) / sum(group["size"] for group in groups)
        kept = [group["kept"] / group["size"] for group in groups]
        lines.append(
            f"| {NETS[net]} | {saturation:.2f} | {min(kept):.0%} | {max(kept):.0%} | {values['epsilon']:,.0f} | "
            f"{values['delta']:.0e} |"
        )
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
