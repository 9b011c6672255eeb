"""Tables of promises: examples that they take, how often they are broken, how wide their bounds are."""

from collections import Counter
from collections.abc import Iterable

from shared import ROOT, read_json

RESULTS = ROOT / "experiments" / "certify" / "results"
SUBJECTS = {"resnet20": "ResNet-20, CIFAR-10, filters", "sst2": "minibert, sst2, bytes of the table"}
RULES = {"certified": "certified", "naive": "measured drop below the limit"}
BOUNDS = {
    "binomial": "exact binomial: width",
    "paired": "exact paired",
    "betting": "betting",
    "bernstein": "empirical Bernstein",
}


def examples_for_promises() -> str:
    """Return examples needed at 95 % confidence (90 and 99 % in brackets), by what changed and what is promised."""
    rows = read_json(RESULTS / "needed.json")["rows"]
    limits = sorted({row["limit"] for row in rows})
    kinds = (("paired", "drop in accuracy"), ("rate", "rate of other answers"))
    heads = [f"{label} below {100 * limit:g} %" for _, label in kinds for limit in limits]
    lines = ["| answers that change | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for changed in sorted({row["changed"] for row in rows}):
        cells = []
        for kind, _ in kinds:
            for limit in limits:
                own = {
                    row["confidence"]: row[kind] for row in rows if (row["changed"], row["limit"]) == (changed, limit)
                }
                low, usual, high = (own[confidence] for confidence in (0.9, 0.95, 0.99))
                cells.append("never" if usual is None else f"**{usual:,}** ({low:,} to {high:,})")
        lines.append(f"| {100 * changed:g} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def promises_on_real_data() -> str:
    """Return what was chosen on twenty halves, and how often the other half proved it wrong, by rule and limit."""
    heads = ("model", "limit", "rule", "promises", "chosen", "broken", "drop on all examples above the limit", "cost")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for file, label in SUBJECTS.items():
        found = read_json(RESULTS / f"splits-{file}.json")
        for limit in sorted({row["limit"] for row in found["splits"]}):
            own = [row for row in found["splits"] if row["limit"] == limit]
            for rule in ("certified", "naive"):
                made = [row[rule] for row in own if row[rule]]
                chosen = Counter(one["name"] for one in made)
                listed = ", ".join(f"{name} ({times})" for name, times in chosen.most_common())
                broken, above = (sum(one[key] for one in made) for key in ("broken", "above_on_all"))
                cost = _passes(row["full_passes"] for row in own) if rule == "certified" else ""
                lines.append(
                    f"| {label} | {100 * limit:g} % | {RULES[rule]} | {len(made)} of {len(own)} | {listed} | "
                    f"{broken} | {above} | {cost} |"
                )
    return "\n".join(lines)


def _passes(found: Iterable[float]) -> str:
    costs = sorted(found)
    return f"{sum(costs) / len(costs):.1f} ({costs[0]:.1f} to {costs[-1]:.1f})"


def widths_of_bounds() -> str:
    """Return how much wider each bound is than the exact binomial one, by examples and rate."""
    rows = read_json(RESULTS / "tightness.json")["rows"]
    sizes = sorted({(row["rate"], row["n"]) for row in rows})
    heads = [f"{100 * rate:g} % of {n:,}" for rate, n in sizes]
    lines = ["| bound | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for bound, label in BOUNDS.items():
        found = {(row["rate"], row["n"]): row for row in rows if row["bound"] == bound}
        entries = [
            f"{100 * found[size]['width']:.2f} points"
            if bound == "binomial"
            else f"{found[size]['ratio']:.2f} x (± {found[size]['ratio_std']:.2f})"
            for size in sizes
        ]
        lines.append(f"| {label} | {' | '.join(entries)} |")
    return "\n".join(lines)
