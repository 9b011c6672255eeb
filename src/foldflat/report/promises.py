"""The search for the smallest model that can be promised, as a table."""

from typing import Any

from rich.table import Table

__all__ = ["search_table"]


def search_table(report: dict[str, Any]) -> Table:
    """Return one row for each candidate that was planned with or tested, the largest first."""
    view = Table(title="Candidates, the largest first")
    for heading in ("candidate", "planned", "certified", "examples", "p-value", "promised"):
        view.add_column(heading, justify="left" if heading == "candidate" else "right")
    planned, tested = ({row["name"]: row for row in report[kind]} for kind in ("planned", "tested"))
    for name in report["candidates"]:
        if name in planned or name in tested:
            found = tested.get(name, {})
            view.add_row(
                name,
                _share(planned.get(name, {}).get("mean")),
                _share(found.get("mean")),
                f"{found['examples']:,}" if found else "",
                _p_value(found, report["certificate"]["examples"]) if found else "",
                ("yes" if found["promised"] else "no") if found else "",
            )
    return view


def _p_value(tested: dict[str, Any], n: int) -> str:
    return "given up" if tested["examples"] < n else f"{tested['p_value']:.2g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
