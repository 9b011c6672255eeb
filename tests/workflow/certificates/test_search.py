"""The search for the smallest candidate: what is made, what is tested, what is promised, what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tests.workflow.certificates.made_up import Lucky, lucky, searched, uses

from foldflat.certify import Risk
from foldflat.errors import DataError, RecipeError
from foldflat.workflow.certificates.promise import drawn
from foldflat.workflow.certificates.stages import measure_in_stages

RATES: dict[str, float | None] = {f"{rate:g}": rate for rate in (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.07, 0.1, 0.3)}


def test_the_smallest_that_can_be_promised_is_found_by_making_few(tmp_path: Path) -> None:
    """Bisection plans, the others certify: of nine candidates at most five are made, and two tested."""
    made: list[str] = []
    found = searched(RATES, lucky(2000, 0), lucky(1000, 1, first=5000), tmp_path / "ledger", made=made)
    assert found.chosen is not None
    assert found.chosen[0] == found.report["chosen"] == "0.03"
    assert len(made) == len(set(made)) <= 5
    assert [row["name"] for row in found.report["tested"]] == ["0.03", "0.07"]
    assert [row["promised"] for row in found.report["tested"]] == [True, False]
    certificate = found.report["certificate"]
    assert certificate["promised"]
    assert certificate["bound"] == certificate["limit"] == 0.05
    assert certificate["examples"] == 1000
    assert certificate["examples_for_half"] is None, "it measures more than half the limit"
    assert found.report["planned_with"] == {"split": "made up", "examples": 2000, "left_out": 0}
    assert "Chosen: 0.03, of 9 candidates; the next smaller, 0.07, measures" in found.report["words"]
    rows = found.report["planned"]
    assert [row["name"] for row in rows] == [name for name in RATES if name in made]
    assert all(abs(row["mean"] - float(row["name"])) < 0.02 for row in rows)


def test_a_search_that_was_made_costs_whoever_searches_again(tmp_path: Path) -> None:
    """The same search is free; another limit or recipe comes after all the ways in which the first may have ended."""
    ledger, planning, examples = tmp_path / "ledger", lucky(2000, 0), lucky(1000, 1, first=5000)
    first = searched(RATES, planning, examples, ledger).report["certificate"]
    assert (first["earlier_uses"], first["delta"]) == (0, pytest.approx(0.05))
    assert searched(RATES, planning, examples, ledger).report["certificate"] == first
    tested_from = list(RATES).index("0.03")
    ways = len(RATES) - tested_from + min(3, tested_from) + 1
    other = searched(RATES, planning, examples, ledger, limit=0.08).report["certificate"]
    assert (other["earlier_uses"], other["delta"]) == (1, pytest.approx(0.05 / ways))
    close = {f"{rate:g}": rate for rate in (0.02, 0.022, 0.024, 0.026, 0.028, 0.03, 0.032, 0.034)}
    fresh, later = (searched(close, planning, examples, place).report for place in (tmp_path / "fresh", ledger))
    assert later["certificate"]["earlier_uses"] == 2
    first_tested = [float(report["tested"][0]["name"]) for report in (fresh, later)]
    assert first_tested[1] < first_tested[0], "planned at the level that is left, not at the whole"
    used = tmp_path / "used"
    few = lucky(100, 1, first=5000)
    searched({"0": 0.0, "1": 0.001}, planning, few, used)
    searched({"0": 0.0, "2": 0.002}, planning, few, used)
    with pytest.raises(DataError, match="100 examples, used 2 times before, are too few to promise"):
        searched({"0": 0.0, "3": 0.003}, planning, few, used)
    assert uses(used) == 2


def test_a_plan_that_was_too_hopeful_falls_back_on_three_larger_ones(tmp_path: Path) -> None:
    """A quarter of the chance of error was kept for them; they are tested as others are, and no larger ones."""
    hopeful = lucky(500, 0)
    hopeful = dataclasses.replace(hopeful, luck=0.5 + hopeful.luck / 2)
    rates: dict[str, float | None] = {f"{rate:g}": rate for rate in (0.001, 0.002, 0.01, 0.039, 0.2)}
    found = searched(rates, hopeful, lucky(1000, 1, first=5000), tmp_path / "ledger").report
    assert found["chosen"] == "0.01"
    assert [(row["name"], row["promised"], row["level"]) for row in found["tested"]] == [
        ("0.002", True, pytest.approx(0.0125)),
        ("0.01", True, pytest.approx(0.0125)),
        ("0.039", False, pytest.approx(0.0125)),
        ("0.2", False, pytest.approx(0.0375)),
    ]
    assert 0.0125 < found["tested"][2]["p_value"] < 0.05
    assert "Chosen: 0.01, of 5 candidates; the next smaller, 0.039, measures" in found["words"]
    assert found["examples_for_next"] > 1000


def run_on(examples: Lucky) -> dict[str, int]:
    """Return on how many examples each model was run."""
    found: dict[str, int] = {}
    for model, n in examples.passes:
        found[f"{model:g}"] = found.get(f"{model:g}", 0) + n
    return found


def test_no_example_is_run_that_could_change_nothing(tmp_path: Path) -> None:
    """A plan and a test are given up where they are clear; not the test of the first, which a refusal is about."""
    planning, examples = lucky(2000, 0), lucky(1000, 1, first=5000)
    rates: dict[str, float | None] = {f"{rate:g}": rate for rate in (0.001, 0.002, 0.03, 0.3, 0.31, 0.32)}
    found = searched(rates, planning, examples, tmp_path / "ledger").report
    assert found["chosen"] == "0.03"
    tested = {row["name"]: row for row in found["tested"]}
    assert run_on(examples) == {"0": 1000, "0.03": 1000, "0.3": 125}
    assert {name: row["examples"] for name, row in tested.items()} == {"0.03": 1000, "0.3": 125}
    assert tested["0.3"]["p_value"] == 1
    assert "0.3, measures" in found["words"]
    assert "on 125 examples, where its test was given up, and cannot be promised" in found["words"]
    planned = run_on(planning)
    assert planned.pop("0") == 2000
    assert planned == {row["name"]: row["examples"] for row in found["planned"]}
    assert planned == {"0.03": 500, "0.3": 250, "0.31": 250}
    refused = searched({"a": 0.3, "b": 0.4}, planning, lucky(1000, 1, first=5000), tmp_path / "other").report
    assert refused["certificate"]["examples"] == 1000


def test_measures_in_stages_are_those_of_the_whole_in_its_order() -> None:
    """Where nothing is clear before the end; else of a part drawn at random, asked about after every eighth."""
    examples = lucky(850, 0)
    reference = examples.outputs(0.0)
    asked: list[int] = []

    def never(risk: Risk) -> bool:
        asked.append(risk.n)
        return False

    whole = measure_in_stages(examples, "disagreement", reference, 0.4, never)
    assert (whole.values == (examples.luck < 0.4)).all()
    assert asked == [107, 214, 320, 426, 532, 638, 744]
    part = measure_in_stages(examples, "disagreement", reference, 0.4, lambda risk: risk.n >= 300)
    assert part.n == 320
    assert (part.values != whole.values[:320]).any()
    few = lucky(150, 0)
    assert measure_in_stages(few, "disagreement", few.outputs(0.0), 0.4, lambda _: True).n == 150


def test_what_cannot_be_made_ends_the_search(tmp_path: Path) -> None:
    """In the plan as in the test, like a candidate that is always wrong."""
    rates = {"large": 0.001, "small": 0.002, "too small": None}
    found = searched(rates, lucky(500, 0), lucky(500, 1, first=5000), tmp_path / "ledger")
    assert found.report["chosen"] == "small"
    last = found.report["tested"][-1]
    assert (last["name"], last["mean"], last["p_value"], last["promised"]) == ("too small", 1.0, 1.0, False)
    assert found.report["examples_for_next"] is None


def test_no_promise_says_what_it_would_take(tmp_path: Path) -> None:
    """The largest candidate is tested, whatever the plan, and nothing is chosen."""
    found = searched({"a": 0.045, "b": 0.06}, lucky(500, 0), lucky(500, 3, first=5000), tmp_path / "ledger")
    assert found.chosen is None
    assert [row["name"] for row in found.report["tested"]] == ["a"]
    assert not found.report["certificate"]["promised"]
    assert found.report["certificate"]["examples_needed"] == found.report["examples_for_next"] > 500
    assert "None of 2 candidates can be promised; tested: a." in found.report["words"]
    assert "examples like these would do" in found.report["words"]


def test_no_example_both_plans_and_certifies(tmp_path: Path) -> None:
    """Common ones are left out of the plan; where nothing is left, or too little is there, it is said."""
    planning, examples = lucky(300, 0), lucky(300, 1, first=200)
    chosen, left_out = drawn(planning, examples, 150, seed=0)
    assert left_out == 100
    assert len(chosen.hashes) == 150
    assert not set(chosen.hashes) & set(examples.hashes)
    ledger = tmp_path / "ledger"
    with pytest.raises(DataError, match="all 300 examples to plan with are among those to certify with"):
        searched(RATES, planning, planning, ledger)
    with pytest.raises(DataError, match=r"20 examples are too few to promise 0\.05 at 0\.95 confidence"):
        searched(RATES, planning, lucky(20, 1, first=900), ledger, made=(made := []))
    assert made == [], "what takes long comes after"
    with pytest.raises(RecipeError, match="0 examples to plan with"):
        drawn(planning, examples, 0, seed=0)
    with pytest.raises(RecipeError, match="no candidates"):
        searched({}, planning, examples, ledger)
    assert uses(ledger) == 0
    assert isinstance(chosen, Lucky)
    assert np.isin(chosen.luck, planning.luck).all()
