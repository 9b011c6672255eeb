"""The result of a sweep in sentences, each figure with its interval."""

from typing import Any

from foldflat.report.page.words import change, drop, length, listed, rate, share

__all__ = ["summary_lines", "summary_of"]

_INTEGERS = ("int8", "int4")
Rows = list[dict[str, Any]]


def summary_of(groups: Rows, sizes: Rows) -> Rows:
    """Return for each model, trained longest after compression, what to take away.

    Each has `model`, `epochs`, `max_steps`; `lead`: what is compared; `best`: of each `rate` the `method` that drops
    least on the mean over the tasks that count, in `words`, against the uncompressed model and svd; `bytes`: whether
    integer rows are the better choice by stored bytes.

    Args:
        groups: of the statistics.
        sizes: of the document.
    """
    longest: dict[str, dict[str, Any]] = {}
    for group in groups:
        longest[group["model"]] = group  # they are sorted by length
    found = []
    for model, group in longest.items():
        own = {(size["method"], size["rate"]): size for size in sizes if size["model"] == model}
        place = {name: group[name] for name in ("model", "epochs", "max_steps")}
        found.append({**place, **_said(group, own)})
    return found


def _said(group: dict[str, Any], sizes: dict[tuple[str, float | None], dict[str, Any]]) -> dict[str, Any]:
    tasks = [task for task, found in group["tasks"].items() if found["counts"]]
    apart = [task for task, found in group["tasks"].items() if not found["counts"]]
    if not tasks:
        return {
            "lead": f"No task counts {_after(group)}: the uncompressed model does not beat the majority class by "
            f"two standard errors on {listed(apart, 'or')}. So there is no mean drop to report.",
            "best": [],
            "bytes": "",
        }
    complete = [row for row in group["drops"] if not row["missing"] and row["absolute"] is not None]
    best = [_best(complete, value) for value in sorted({row["rate"] for row in complete if row["rate"] is not None})]
    seeds = [row["absolute"]["n"] for row in complete]
    return {"lead": _lead(group, tasks, seeds), "best": best, "bytes": _by_bytes(complete, sizes)}


def _measure(row: dict[str, Any]) -> str:
    """Return the drop that a method is ranked by: the paper's, unless the uncompressed score is not positive."""
    return "absolute" if row["relative"] is None else "relative"


def _mean(row: dict[str, Any]) -> float:
    return float(row[_measure(row)]["mean"])


def _in_words(row: dict[str, Any]) -> str:
    unit = "\N{NO-BREAK SPACE}%" if _measure(row) == "relative" else " points"
    found = row[_measure(row)]
    value, bracket, limits = drop(found).partition(" [")
    return f"{value}{unit}{bracket}{limits}" if limits else f"{value}{unit} (one seed, no interval)"


def _lead(group: dict[str, Any], tasks: list[str], seeds: list[int]) -> str:
    tested = f"{len(tasks)} task{'s' if len(tasks) > 1 else ''}"
    low, high = min(seeds, default=0), max(seeds, default=0)
    among = f"{high}" if low == high else f"{low} to {high}"
    limits = f"; in brackets 95\N{NO-BREAK SPACE}% intervals over {among} seeds" if high > 1 else ", from one seed"
    reasons: dict[str, list[str]] = {}
    for task, found in group["tasks"].items():
        if not found["counts"]:
            reasons.setdefault(found["reason"], []).append(task)
    apart = "".join(f" Not counted: {listed(names)} ({reason})." for reason, names in reasons.items())
    return (
        f"Mean drop over {tested} {_after(group)}, relative to the uncompressed model trained as long{limits}.{apart}"
    )


def _after(group: dict[str, Any]) -> str:
    words = length(group)
    return words.replace("no ", "without ", 1) if words.startswith("no ") else f"after {words}"


def _best(rows: Rows, value: float) -> dict[str, Any]:
    """Say which method drops least at a rate, and whether the seeds tell it from svd."""
    own = [row for row in rows if row["rate"] == value]
    best = min(own, key=_mean)
    svd = next((row for row in own if row["method"] == "svd"), None)
    words = f"{best['method']} drops least, {_in_words(best)}"
    if svd is best:
        words += "; no other method beats it on the mean."
    elif svd is None:
        words += "; svd has no complete results here."
    else:
        words += f"; svd {_in_words(svd)}. {_told_apart(best['versus_svd'])}"
    return {"rate": value, "method": best["method"], "words": words}


def _told_apart(found: dict[str, Any] | None) -> str:
    if found is None:
        return "They have no seed in common."
    value, bracket, limits = change(found).partition(" [")
    head = f"Against svd: {value} points{bracket}{limits}"
    if not limits:
        return f"{head}, in one seed."
    told_apart = found["low"] > 0 or found["high"] < 0
    return f"{head}." if told_apart else f"{head}; {found['n']} seeds do not tell the two apart."


def _by_bytes(rows: Rows, sizes: dict[tuple[str, float | None], dict[str, Any]]) -> str:
    """Say whether int8 or int4 is smaller and no worse than what was compressed at a rate."""
    integers = [row for row in rows if row["method"] in _INTEGERS]
    rated = [row for row in rows if row["rate"] is not None]
    if not integers:
        return "int8 and int4 have no complete results here, so this says nothing about which is best by stored bytes."
    if not rated:
        return ""
    parts = [_against(row, rated, sizes) for row in sorted(integers, key=lambda row: row["method"], reverse=True)]
    best = [name for name, _, wins in parts if wins]
    head = (
        f"By stored bytes {listed(best)} {'is' if len(best) == 1 else 'are'} the better choice: "
        if best
        else "By stored bytes no integer format is both smaller and at least as good: "
    )
    return head + "; ".join(words for _, words, _ in parts) + "."


def _against(
    row: dict[str, Any], rated: Rows, sizes: dict[tuple[str, float | None], dict[str, Any]]
) -> tuple[str, str, bool]:
    """Return the method, what it beats in words, and whether it beats anything: no more bytes and no more drop."""
    own = sizes[row["method"], None]["share"]["mean"]
    beaten = [
        other
        for other in rated
        if own <= sizes[other["method"], other["rate"]]["share"]["mean"] and _mean(row) <= _mean(other)
    ]
    words = f"{row['method']} takes {share(own)} of the table's bytes and drops {_in_words(row)}, "
    if len(beaten) == len(rated):
        words += "smaller than every method at every rate and at least as good"
    elif beaten:
        names = ("ours", *(other["method"] for other in beaten))
        first = next(name for name in names if any(other["method"] == name for other in beaten))
        at = listed(rate(other["rate"]) for other in beaten if other["method"] == first)
        count = f"{len(beaten)} of all {len(rated)} combinations of method and rate"
        words += f"smaller and at least as good as {first} at {at}, and {count}"
    else:
        words += "and no method at any rate is both larger and worse"
    return row["method"], words, bool(beaten)


def summary_lines(found: dict[str, Any]) -> list[str]:
    """Return what `summary_of` says of a model as lines of plain text."""
    best = [f"- At {rate(item['rate'])} compression {item['words']}" for item in found["best"]]
    return [line for line in (f"{found['model']}: {found['lead']}", *best, found["bytes"]) if line]
