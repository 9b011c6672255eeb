"""The result of a sweep in sentences, each figure with its interval."""

from typing import Any

from foldflat.report.page.differences import complete_drops
from foldflat.report.page.words import by_bytes, change, compression, drop, length, listed, method_order, rate, share
from foldflat.report.statistics import REFERENCE

__all__ = ["summary_lines", "summary_of"]

_INTEGERS = ("int8", "int4")
Rows = list[dict[str, Any]]
Place = tuple[str, float | None]


def summary_of(groups: Rows, sizes: Rows) -> Rows:
    """Return for each model, trained longest after compression, what to take away.

    Each has `model`, `epochs`, `max_steps`; `lead`: what is compared; `best`: of each `rate` the `method` that drops
    least on the mean over the tasks that count, in `words`, against the uncompressed model and svd; `incomplete`: which
    methods are compared with none, because they lack cells; `bytes`: whether integer rows are the better choice by
    stored bytes.

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
        found.append({**place, **_said(group, own, _places(groups, model))})
    return found


def _places(groups: Rows, model: str) -> list[Place]:
    """Return all methods and rates of a model's cells, and each method at the rates of those that count alike."""
    seen = {(row["method"], row["rate"]) for group in groups if group["model"] == model for row in group["scores"]}
    rated = {(method, value) for method, value in seen if value is not None}
    seen |= {(one, value) for one, _ in rated for other, value in rated if by_bytes(one) == by_bytes(other)}
    return sorted(seen - {(REFERENCE, None)}, key=lambda place: (method_order(place[0]), place[1] or 0.0))


def _said(group: dict[str, Any], sizes: dict[Place, dict[str, Any]], places: list[Place]) -> dict[str, Any]:
    tasks = [task for task, found in group["tasks"].items() if found["counts"]]
    if not tasks:
        lead = (
            f"No task counts {_after(group)}, which takes an uncompressed model that beats the majority class by two "
            f"standard errors. So there is no mean drop to report.{_apart(group)}"
        )
        return {"lead": lead, "best": [], "incomplete": "", "bytes": ""}
    complete = complete_drops(group["drops"])
    if any(row["relative"] is None for row in complete):  # then all are ranked by points
        complete = [{**row, "relative": None} for row in complete]
    rated = sorted({(by_bytes(row["method"]), row["rate"]) for row in complete if row["rate"] is not None})
    best = [_best([row for row in complete if _axis(row) == axis]) for axis in rated]
    seeds = max((row["absolute"]["n"] for row in complete), default=0)
    return {
        "lead": _lead(group, tasks, seeds),
        "best": best,
        "incomplete": _incomplete(group["drops"], places, seeds),
        "bytes": _by_bytes(complete, sizes),
    }


def _axis(row: dict[str, Any]) -> tuple[bool, float]:
    return by_bytes(row["method"]), row["rate"]


def _incomplete(drops: Rows, places: list[Place], seeds: int) -> str:
    """Name what is compared with nothing because cells are missing, "" where nothing is."""
    found = {(row["method"], row["rate"]): row for row in drops}
    lacking: dict[tuple[str, str], list[str]] = {}
    for method, value in places:
        reason = _lacks(found.get((method, value)), seeds)
        if reason:
            lacking.setdefault((method, reason), []).append(compression(method, value))
    parts = [
        f"{method}{f' at {listed(rates)}' if any(rates) else ''} ({reason})"
        for (method, reason), rates in lacking.items()
    ]
    return f"Incomplete, and compared with none: {'; '.join(parts)}." if parts else ""


def _lacks(row: dict[str, Any] | None, seeds: int) -> str:
    """Return what a method has not, "" where it has all."""
    if row is None:
        return "no cells"
    if row["missing"]:
        return f"no cells of {listed(row['missing'])}"
    own = 0 if row["absolute"] is None else row["absolute"]["n"]
    if own == 0:
        return "no seed that all tasks have"
    return f"{own} of {seeds} seeds" if own < seeds else ""


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


def _lead(group: dict[str, Any], tasks: list[str], seeds: int) -> str:
    tested = f"{len(tasks)} task{'s' if len(tasks) > 1 else ''}"
    limits = f"; in brackets 95\N{NO-BREAK SPACE}% intervals over {seeds} seeds" if seeds > 1 else ", from one seed"
    return (
        f"Mean drop over {tested} {_after(group)}, relative to the uncompressed model trained as long"
        f"{limits if seeds else ''}.{_apart(group)}"
    )


def _apart(group: dict[str, Any]) -> str:
    """Name the tasks that do not count, by reason."""
    reasons: dict[str, list[str]] = {}
    for task, found in group["tasks"].items():
        if not found["counts"]:
            reasons.setdefault(found["reason"], []).append(task)
    return "".join(f" Not counted: {listed(names)} ({reason})." for reason, names in reasons.items())


def _after(group: dict[str, Any]) -> str:
    words = length(group)
    return words.replace("no ", "without ", 1) if words.startswith("no ") else f"after {words}"


def _best(rows: Rows) -> dict[str, Any]:
    """Say which method drops least at a rate, and whether the seeds tell it from svd."""
    best = min(rows, key=_mean)
    svd = next((row for row in rows if row["method"] == "svd"), None)
    words = f"{best['method']} drops least, {_in_words(best)}"
    if by_bytes(best["method"]):
        words = f"of bytes, not of parameters, {words}."
    elif svd is best:
        words += "; no other method beats it on the mean."
    elif svd is None:
        words += "; svd has no complete results here."
    else:
        words += f"; svd {_in_words(svd)}. {_told_apart(best['versus_svd'])}"
    return {"rate": best["rate"], "method": best["method"], "words": words}


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
    lines = (f"{found['model']}: {found['lead']}", *best, found["incomplete"], found["bytes"])
    return [line for line in lines if line]
