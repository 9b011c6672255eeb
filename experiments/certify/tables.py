"""The table of examples that a promise takes."""

from shared import ROOT, read_json

RESULT = ROOT / "experiments" / "certify" / "results" / "needed.json"


def examples_for_promises() -> str:
    """Return examples needed at 95 % confidence (90 and 99 % in brackets), by what changed and what is promised."""
    rows = read_json(RESULT)["rows"]
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
