"""What a search came to, in a table."""

from typing import Any

from foldflat.report.promises import search_table


def row(name: str, examples: int, p_value: float, *, promised: bool) -> dict[str, Any]:
    """Return what is reported of a candidate."""
    return {"name": name, "mean": 0.01, "examples": examples, "p_value": p_value, "promised": promised}


def test_the_table_says_which_tests_were_given_up() -> None:
    """They have no p-value; what was planned only has no test; what was neither is left out."""
    view = search_table(
        {
            "candidates": ["a", "b", "c", "d", "e"],
            "planned": [{"name": "d", "mean": 0.2}, {"name": "e", "mean": None}],
            "tested": [row("a", 1000, 0.0123, promised=True), row("b", 250, 1.0, promised=False)],
            "certificate": {"examples": 1000},
        }
    )
    columns = {str(column.header): list(column.cells) for column in view.columns}
    assert columns == {
        "candidate": ["a", "b", "d", "e"],
        "planned": ["", "", "20.00%", ""],
        "certified": ["1.00%", "1.00%", "", ""],
        "examples": ["1,000", "250", "", ""],
        "p-value": ["0.012", "given up", "", ""],
        "promised": ["yes", "no", "", ""],
    }
