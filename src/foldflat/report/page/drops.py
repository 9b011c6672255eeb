"""Tables of scores and drops."""

from typing import Any

from foldflat.report.page.differences import complete_drops
from foldflat.report.page.tables import Cell, Rows, Table, changes_of, table_of
from foldflat.report.page.words import (
    by_bytes,
    change,
    compression,
    drop,
    length,
    listed,
    method_order,
    rate,
    score,
    share,
)

__all__ = ["drop_tables", "mean_table", "paper_table", "score_table", "task_order", "task_table"]


def mean_table(group: dict[str, Any], sizes: Rows) -> Table:
    """Return the mean drop of every method and rate over the tasks that count; the least of each rate stands out."""
    counted = [task for task, found in group["tasks"].items() if found["counts"]]
    own = {(size["method"], size["rate"]): size for size in sizes if size["model"] == group["model"]}
    least = _least(group["drops"])
    rows = []
    for row in group["drops"]:
        size = own[row["method"], row["rate"]]
        place, stored = (
            [row["method"], compression(row["method"], row["rate"]) or "one size"],
            share(size["share"]["mean"]),
        )
        if row["missing"]:
            rows.append([*place, f"no cells yet: {listed(row['missing'])}", "", "", stored, ""])
            continue
        seeds = "" if row["absolute"] is None else str(row["absolute"]["n"])
        relative = Cell(drop(row["relative"]), strong=id(row) in least)
        rows.append([*place, relative, drop(row["absolute"]), change(row["versus_svd"]), stored, seeds])
    caption = (
        f"Mean drop over {len(counted)} task{'s' if len(counted) > 1 else ''}, {length(group)}: {listed(counted)}."
    )
    headings = (
        "method",
        "compression",
        "relative drop, %",
        "drop, points",
        "minus svd, points",
        "table's bytes",
        "seeds",
    )
    return table_of(caption, headings, rows, texts=2, first=changes_of(row["rate"] for row in group["drops"]))


def _least(drops: Rows) -> set[int]:
    """Return which rows drop least at their rate, of those with an interval; rows of one size compete with none."""
    rows = [row for row in complete_drops(drops) if row["rate"] is not None]
    rows = [row for row in rows if row["relative"] and row["relative"]["n"] > 1]
    places: dict[tuple[bool, float], Rows] = {}
    for row in rows:
        places.setdefault((by_bytes(row["method"]), row["rate"]), []).append(row)
    return {id(min(own, key=lambda row: float(row["relative"]["mean"]))) for own in places.values()}


def drop_tables(group: dict[str, Any]) -> list[Table]:
    """Return for each rate the drop of every task by method, relative and below it absolute; then the mean."""
    rates = sorted({row["rate"] for row in group["scores"] if row["rate"] is not None})
    return [_drops_at(group, value) for value in rates or [None]]


def _drops_at(group: dict[str, Any], value: float | None) -> Table:
    found = {
        (row["task"], row["method"]): row
        for row in group["scores"]
        if row["rate"] in (value, None) and row["method"] != "none"
    }
    means = {row["method"]: row for row in group["drops"] if row["rate"] in (value, None)}
    methods = sorted({method for _, method in found}, key=method_order)
    tasks = task_order(group["tasks"])
    rows: list[list[Cell | str]] = [
        [_task_name(group, task), *(_task_drop(found.get((task, method))) for method in methods)] for task in tasks
    ]
    counted = [task for task in tasks if group["tasks"][task]["counts"]]
    if counted:
        mean = Cell("mean", f"of the {len(counted)} that count" if len(counted) < len(tasks) else "")
        rows.insert(len(counted), [mean, *(_mean_drop(means.get(method)) for method in methods)])
    at = "" if value is None else f" at {rate(value)} compression"
    caption = f"Drop of each task{at}, {length(group)}."
    apart = frozenset(range(len(counted) + bool(counted), len(rows)))
    lines = frozenset({len(counted), len(counted) + 1} if counted else ())
    headings = (f"{method} ({rate(value)} of bytes)" if by_bytes(method) else method for method in methods)
    return table_of(caption, ("task", *headings), rows, first=lines, quiet=apart)


def task_order(tasks: dict[str, Any]) -> list[str]:
    """Return tasks, those that count first."""
    return sorted(tasks, key=lambda task: (not tasks[task]["counts"], task))


def _task_name(group: dict[str, Any], task: str) -> Cell:
    return Cell(task, "" if group["tasks"][task]["counts"] else "in no mean")


def _task_drop(row: dict[str, Any] | None) -> Cell:
    if row is None or row["to_none"] is None:
        return Cell()
    to_none = row["to_none"]
    turned = {"mean": -to_none["mean"], "low": None, "high": None}
    if to_none["low"] is not None:
        turned |= {"low": -to_none["high"], "high": -to_none["low"]}
    return Cell(drop(row["relative_drop"]) or "no share", drop(turned))


def _mean_drop(row: dict[str, Any] | None) -> Cell:
    return Cell() if row is None or row["missing"] else Cell(drop(row["relative"]) or "no share", drop(row["absolute"]))


def task_table(group: dict[str, Any]) -> Table:
    """Return for each task what the uncompressed model reaches, what it has to exceed to count, and whether it does."""
    none = {row["task"]: row["score"] for row in group["scores"] if row["method"] == "none"}
    rows = []
    for task in task_order(group["tasks"]):
        found = group["tasks"][task]
        limits = ["" if found[name] is None else f"{100 * found[name]:.2f}" for name in ("reached", "threshold")]
        rows.append([task, score(none.get(task)), *limits, "yes" if found["counts"] else f"no: {found['reason']}"])
    caption = (
        f"The uncompressed model, {length(group)}. A task counts where its accuracy (the correlation of a regression) "
        "exceeds the threshold: the majority class plus two standard errors."
    )
    headings = ("task", "score, points", "reached", "threshold", "counts")
    return table_of(caption, headings, rows, quiet=_quiet(group))


def _quiet(group: dict[str, Any]) -> frozenset[int]:
    tasks = task_order(group["tasks"])
    return frozenset(i for i, task in enumerate(tasks) if not group["tasks"][task]["counts"])


def score_table(group: dict[str, Any]) -> Table:
    """Return the score of every task, method and rate."""
    tasks = task_order(group["tasks"])
    found = {(row["method"], row["rate"], row["task"]): row["score"] for row in group["scores"]}
    methods = sorted({key[:2] for key in found}, key=lambda key: (key[1] or 0.0, method_order(key[0])))
    rows = [
        [method, compression(method, value), *(score(found.get((method, value, task))) for task in tasks)]
        for method, value in methods
    ]
    caption = f"Scores in points of each task's headline metric, {length(group)}, ± the standard deviation over seeds."
    lines = changes_of(value for _, value in methods)
    return table_of(caption, ("method", "compression", *tasks), rows, texts=2, first=lines)


def paper_table(paper: Rows) -> Table:
    """Return the paper's own figures, which are of other models."""
    rows = [
        [row["model"], f"{row['subspaces']} at {rate(row['rate'])}", f"{row['svd']} at {rate(row['svd_rate'])}"]
        for row in paper
    ]
    caption = (
        "The paper's own figures, on other models: mean relative drop over nine GLUE tasks after two epochs of "
        "fine-tuning (Maalouf et al., ICLR 2021, arXiv 2010.04290)."
    )
    return table_of(caption, ("model", "the paper's subspaces", "SVD"), rows)
