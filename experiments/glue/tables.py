"""Tables of the sweep on all-MiniLM-L6-v2."""

from typing import Any

from shared import ROOT, read_json

from foldflat.report.page.words import drop, method_order, rate, score, share
from foldflat.report.statistics import sweep_statistics

RESULTS = ROOT / "experiments" / "glue" / "minilm" / "results.json"


def minilm() -> str:
    """Return the mean drop of every method and rate, before and after fine-tuning."""
    rows = read_json(RESULTS)["cells"]
    before, after = sweep_statistics(rows)["groups"]
    tasks = [task for task, found in before["tasks"].items() if found["counts"]]
    steps = after["max_steps"]
    most = max(row["absolute"]["n"] for row in (*before["drops"], *after["drops"]) if row["absolute"])
    seeds = "with the 95 % interval over paired seeds" if most > 1 else "from the one seed that all tasks have"
    caption = (
        f"Mean relative drop over {', '.join(tasks)}, in % of the uncompressed model's score, {seeds}; after: {steps} "
        "steps more, the uncompressed model too."
    )
    lines = [
        caption,
        "",
        "| method | removed | table's bytes | drop before fine-tuning | drop after |",
        "|---|---|---|---|---|",
    ]
    for method, own_rate in _methods(rows):
        lines.append(
            f"| {method} | {rate(own_rate)} | {_share(rows, method, own_rate)} | "
            f"{_drop(before, method, own_rate)} | {_drop(after, method, own_rate)} |"
        )
    return "\n".join(lines)


def minilm_tasks() -> str:
    """Return the score of every task, method and rate, before and after fine-tuning."""
    rows = read_json(RESULTS)["cells"]
    groups = sweep_statistics(rows)["groups"]
    tasks = list(groups[0]["tasks"])
    heads = (f"{task}: before | after" for task in tasks)
    lines = [f"| method | removed | {' | '.join(heads)} |", "|---|---|" + "---|---|" * len(tasks)]
    for method, own_rate in [("none", None), *_methods(rows)]:
        scores = [_score(group, task, method, own_rate) for task in tasks for group in groups]
        lines.append(f"| {method} | {rate(own_rate)} | {' | '.join(scores)} |")
    return "\n".join(lines)


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
