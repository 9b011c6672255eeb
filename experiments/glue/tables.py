"""Tables of the sweeps whose results are kept here."""

from typing import Any

from shared import ROOT, read_json

from foldflat.report.page.words import drop, method_order, rate, score, share
from foldflat.report.statistics import sweep_statistics

FOLDER = ROOT / "experiments" / "glue"


def mean_drops(sweep: str) -> str:
    """Return the mean drop of every method and rate of a sweep, before and after fine-tuning."""
    rows = _cells(sweep)
    before, after = groups = sweep_statistics(rows)["groups"]
    lines = [
        _caption(before, after),
        "",
        "| method | removed | table's bytes | drop before fine-tuning | drop after |",
        "|---|---|---|---|---|",
    ]
    for method, own_rate in _methods(rows):
        drops = (_drop(group, method, own_rate) for group in groups)
        lines.append(f"| {method} | {rate(own_rate)} | {_share(rows, method, own_rate)} | {' | '.join(drops)} |")
    return "\n".join(lines)


def task_scores(sweep: str) -> str:
    """Return the score of every task, method and rate of a sweep, before and after fine-tuning."""
    rows = _cells(sweep)
    groups = sweep_statistics(rows)["groups"]
    tasks = list(groups[0]["tasks"])
    heads = (f"{task}: before | after" for task in tasks)
    lines = [f"| method | removed | {' | '.join(heads)} |", "|---|---|" + "---|---|" * len(tasks)]
    for method, own_rate in [("none", None), *_methods(rows)]:
        scores = [_score(group, task, method, own_rate) for task in tasks for group in groups]
        lines.append(f"| {method} | {rate(own_rate)} | {' | '.join(scores)} |")
    return "\n".join(lines)


def _cells(sweep: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(FOLDER / sweep / "results.json")["cells"]
    return found


def _caption(before: dict[str, Any], after: dict[str, Any]) -> str:
    counted = [
        ", ".join(task for task, found in group["tasks"].items() if found["counts"]) for group in (before, after)
    ]
    over = counted[0] if counted[0] == counted[1] else f"{counted[0]} before, {counted[1]} after"
    most = max(row["absolute"]["n"] for row in (*before["drops"], *after["drops"]) if row["absolute"])
    seeds = f"with the 95 % interval over {most} paired seeds" if most > 1 else "from the one seed that all tasks have"
    return (
        f"Mean relative drop over {over}, in % of the uncompressed model's score, {seeds}; after: {after['max_steps']} "
        "steps more, the uncompressed model too."
    )


def _methods(rows: list[dict[str, Any]]) -> list[tuple[str, float | None]]:
    found = {(row["method"], row["rate"]) for row in rows if row["method"] != "none"}
    return sorted(found, key=lambda pair: (pair[1] or 0.0, method_order(pair[0])))


def _share(rows: list[dict[str, Any]], method: str, own_rate: float | None) -> str:
    tables = [row["table"] for row in rows if (row["method"], row["rate"]) == (method, own_rate)]
    return share(max(table["size_bytes_after"] / table["size_bytes_before"] for table in tables))


def _drop(group: dict[str, Any], method: str, own_rate: float | None) -> str:
    for row in group["drops"]:
        if (row["method"], row["rate"]) == (method, own_rate):
            return f"no cells of {', '.join(row['missing'])}" if row["missing"] else drop(row["relative"])
    return "no cells"


def _score(group: dict[str, Any], task: str, method: str, own_rate: float | None) -> str:
    for row in group["scores"]:
        if (row["task"], row["method"], row["rate"]) == (task, method, own_rate):
            return score(row["score"])
    return ""
