"""The statistics of a sweep as tables for a terminal."""

from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from foldflat.report.page.words import by_bytes

__all__ = ["sweep_tables"]


def sweep_tables(statistics: dict[str, Any]) -> list[Table]:
    """Return for each model and length two tables: scores of each task, and the mean drop over those that count."""
    tables = []
    for group in statistics["groups"]:
        length = f"{group['epochs']:g} epochs" if group["max_steps"] is None else f"{group['max_steps']} steps"
        title = f"{group['model']}, {length} after compression"
        tables += [_scores(group, title), *([_drops(group, title)] if group["drops"] else [])]
    return tables


def _scores(group: dict[str, Any], title: str) -> Table:
    apart = [task for task, found in group["tasks"].items() if not found["counts"]]
    caption = "Points of the task's metric; ± is the standard deviation over seeds, [..] the 95 % interval of the mean."
    if apart:
        reasons = (f"{task} ({group['tasks'][task]['reason']})" for task in apart)
        caption += f" In no mean: {', '.join(reasons)}."
    view = Table(title=title, caption=caption, box=SIMPLE, pad_edge=False)
    for heading in ("task", "method", "rate", "seeds", "score", "minus none", "minus svd"):
        view.add_column(heading, justify="left" if heading in ("task", "method") else "right", no_wrap=True)
    for row in group["scores"]:
        style = "dim" if row["task"] in apart else ""
        seeds = str(row["score"]["n"])
        score, to_none, to_svd = _spread(row["score"]), _difference(row["to_none"]), _difference(row["to_svd"])
        if row["method"] == "none":
            to_none = ""
        view.add_row(row["task"], row["method"], _rate(row), seeds, score, to_none, to_svd, style=style)
    return view


def _drops(group: dict[str, Any], title: str) -> Table:
    counted = [task for task, found in group["tasks"].items() if found["counts"]]
    view = Table(
        title=f"Mean drop over {len(counted)} tasks: {title}",
        caption=f"Of the uncompressed model, trained as long: {', '.join(counted)}. "
        "Relative: share of its score; absolute: points.",
        box=SIMPLE,
        pad_edge=False,
    )
    for heading in ("method", "rate", "seeds", "relative drop, %", "absolute drop", "minus svd"):
        view.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in group["drops"]:
        if row["missing"]:
            view.add_row(row["method"], _rate(row), "", f"no cells yet: {', '.join(row['missing'])}", "", "")
            continue
        n = "" if row["absolute"] is None else str(row["absolute"]["n"])
        parts = (_difference(row[name]) for name in ("relative", "absolute", "versus_svd"))
        view.add_row(row["method"], _rate(row), n, *parts)
    return view


def _rate(row: dict[str, Any]) -> str:
    if row["rate"] is None:
        return ""
    return f"{row['rate']:g}{' of bytes' if by_bytes(row['method']) else ''}"


def _spread(found: dict[str, Any]) -> str:
    deviation = "" if found["deviation"] is None else f" ± {100 * found['deviation']:.2f}"
    return f"{100 * found['mean']:.2f}{deviation}"


def _difference(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    limits = "" if found["low"] is None else f" [{100 * found['low']:+.2f}, {100 * found['high']:+.2f}]"
    return f"{100 * found['mean']:+.2f}{limits}"
