"""Paired statistics against numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import t

from foldflat.report.statistics import interval, interval_over_tasks, sweep_statistics
from foldflat.report.sweeps import sweep_tables


def row(task: str, method: str, seed: int, value: float, *, rate: float | None = None, n: int = 400) -> dict[str, Any]:
    """Return a cell whose headline is an accuracy; the majority class has half of the rows."""
    is_regression = task == "stsb"
    score = {
        "headline": {"name": "spearman" if is_regression else "accuracy", "value": value},
        "accuracy": None if is_regression else value,
        "majority_baseline": None if is_regression else 0.5,
        "examples": n,
    }
    place = {"model": "m", "task": task, "method": method, "rate": rate, "seed": seed}
    return {**place, "epochs": 2.0, "max_steps": None, "score": score}


def rows(task: str, none: list[float], svd: list[float], ours: list[float]) -> list[dict[str, Any]]:
    """Return the cells of a task, a seed for each position."""
    by_method = {("none", None): none, ("svd", 0.4): svd, ("ours", 0.4): ours}
    return [
        row(task, method, seed, value, rate=rate)
        for (method, rate), values in by_method.items()
        for seed, value in enumerate(values)
    ]


def test_an_interval_is_students() -> None:
    """1, 2, 3, 6: mean 3, deviation sqrt(14 / 3), t of 3 degrees 3.182446; one value has a mean only."""
    found = interval([1, 2, 3, 6])
    assert found["mean"] == 3
    assert found["deviation"] == pytest.approx(2.160246899)
    assert found["low"] == pytest.approx(3 - 3.182446305 * 1.0801234497)
    assert found["high"] == pytest.approx(3 + 3.182446305 * 1.0801234497)
    assert interval([0.5]) == {"n": 1, "mean": 0.5, "deviation": None, "low": None, "high": None}


def test_an_interval_over_tasks_takes_each_for_itself() -> None:
    """Variances 2 and 8: error sqrt(10 / 2) / 2, freedom 100 / 68, whatever the means; no spread, no width."""
    found = interval_over_tasks([[1, 3], [12, 8]])
    assert found["mean"] == 6
    assert found["deviation"] == pytest.approx(0.5**0.5), "of 6.5 and 5.5, the means of the seeds"
    half = float(t.ppf(0.975, 100 / 68)) * (10**0.5 / 2) / 2**0.5
    assert (found["low"], found["high"]) == (pytest.approx(6 - half), pytest.approx(6 + half))
    assert interval_over_tasks([[1, 3], [12, 8]])["high"] == pytest.approx(
        interval_over_tasks([[1, 3], [2, -2]])["high"] + 5
    )
    assert interval_over_tasks([[1, 1], [3, 3]]) == {"n": 2, "mean": 2, "deviation": 0, "low": 2, "high": 2}
    assert interval_over_tasks([[1], [3]])["low"] is None
    tiny = interval_over_tasks([[1e-100, 3e-100], [2e-100, -2e-100]])
    assert tiny["high"] > tiny["mean"]


@pytest.mark.parametrize(("tasks", "seeds", "ratio"), [(2, 2, 1), (4, 2, 15), (5, 3, 3)])
def test_an_interval_over_tasks_holds_the_mean(tasks: int, seeds: int, ratio: float) -> None:
    """In 4,000 draws of nothing at least 94 of 100 hold 0, also where tasks differ; Student's are wider."""
    draw = np.random.default_rng(0)
    values = draw.standard_normal((4000, tasks, seeds)) * np.geomspace(1, ratio, tasks)[:, None]
    found = [interval_over_tasks(own) for own in values]
    assert np.mean([one["low"] <= 0 <= one["high"] for one in found]) > 0.94
    students = [interval(own.mean(axis=0)) for own in values]
    widths = [np.median([one["high"] - one["low"] for one in rows]) for rows in (found, students)]
    assert widths[0] < widths[1]


def test_methods_are_compared_seed_by_seed() -> None:
    """Seeds differ by ten points, differences by none: the interval is that of the differences."""
    (group,) = sweep_statistics(rows("sst2", [0.8, 0.9], [0.78, 0.88], [0.79, 0.89]))["groups"]
    ours = next(item for item in group["scores"] if item["method"] == "ours")
    assert ours["score"]["deviation"] == pytest.approx(0.0707106781)
    assert ours["to_none"]["mean"] == pytest.approx(-0.01)
    assert ours["to_none"]["deviation"] == pytest.approx(0, abs=1e-12)
    assert ours["to_svd"]["mean"] == pytest.approx(0.01)
    assert next(item for item in group["scores"] if item["method"] == "svd")["to_svd"] is None


def test_the_drop_is_the_mean_over_tasks_of_each_seed() -> None:
    """Seed 0 drops 0.08 of 0.8 and nothing of 0.6; seed 1 0.09 of 0.9 and 0.06 of 0.6: only the second task varies."""
    cells = rows("sst2", [0.8, 0.9], [0.72, 0.81], [0.8, 0.9]) + rows("rte", [0.6, 0.6], [0.6, 0.54], [0.6, 0.6])
    (group,) = sweep_statistics(cells)["groups"]
    svd = next(item for item in group["drops"] if item["method"] == "svd")
    assert svd["relative"]["n"] == 2
    assert svd["relative"]["mean"] == pytest.approx(0.075)
    assert svd["relative"]["deviation"] == pytest.approx(0.05 / 2**0.5)
    assert svd["absolute"]["mean"] == pytest.approx((0.04 + 0.075) / 2)
    ours = next(item for item in group["drops"] if item["method"] == "ours")
    assert ours["absolute"]["mean"] == pytest.approx(0)
    assert ours["versus_svd"]["mean"] == pytest.approx((0.04 + 0.075) / 2)


def test_tasks_that_were_not_learned_are_in_no_mean() -> None:
    """Half of 400 rows plus two standard errors of 0.025 is 0.55; a correlation has to exceed 2 / sqrt(399)."""
    cells = [row("sst2", "none", 0, 0.56), row("rte", "none", 0, 0.549)]
    cells += [row("stsb", "none", 0, 0.1002), row("sst2", "svd", 0, 0.5, rate=0.4), row("rte", "svd", 0, 0.1, rate=0.4)]
    (group,) = sweep_statistics(cells)["groups"]
    assert {task: found["counts"] for task, found in group["tasks"].items()} == {
        "rte": False,
        "sst2": True,
        "stsb": True,
    }
    assert group["tasks"]["rte"]["threshold"] == pytest.approx(0.55)
    assert group["tasks"]["stsb"]["threshold"] == pytest.approx(0.100125234)
    assert group["drops"][0]["missing"] == ["stsb"]
    assert group["drops"][0]["absolute"] is None


def test_unpaired_seeds_and_absent_references_give_no_difference() -> None:
    """Only seeds that both have count; without the uncompressed model nothing can be said of drops."""
    cells = [row("sst2", "none", seed, 0.8) for seed in (0, 1)] + [row("sst2", "svd", 1, 0.7, rate=0.4)]
    (group,) = sweep_statistics(cells)["groups"]
    assert group["drops"][0]["absolute"]["n"] == 1
    (group,) = sweep_statistics(cells[2:])["groups"]
    assert group["scores"][0]["to_none"] is None
    assert group["tasks"]["sst2"]["reason"] == "no uncompressed model"
    assert group["drops"] == []
    assert sweep_statistics([]) == {"groups": []}


def test_tables_show_points_and_set_tasks_apart() -> None:
    """Scores in points with deviation and interval, drops in percent, tasks that do not count by name."""
    cells = rows("sst2", [0.8, 0.9], [0.72, 0.81], [0.79, 0.9]) + rows("wnli", [0.5, 0.5], [0.5, 0.5], [0.5, 0.5])
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as shown:
        for table in sweep_tables(sweep_statistics(cells)):
            console.print(table)
    text = shown.get()
    assert "85.00 ± 7.07" in text
    assert "-0.50 [-6.85, +5.85]" in text
    assert "+10.00 [+10.00, +10.00]" in text
    assert "Mean drop over 1 tasks: m, 2 epochs after compression" in text
    assert "In no mean: wnli (not learned)." in text


def test_tables_say_what_a_rate_counts_and_why_a_task_is_apart() -> None:
    """Bytes, for mixed; and a task whose uncompressed model has no cell may have been learned."""
    cells = [*rows("sst2", [0.8], [0.7], [0.75]), row("rte", "svd", 0, 0.6, rate=0.4)]
    cells.append(row("sst2", "mixed", 0, 0.7, rate=0.4))
    console = Console(width=200)
    with console.capture() as shown:
        for table in sweep_tables(sweep_statistics(cells)):
            console.print(table)
    assert "In no mean: rte (no uncompressed model)." in " ".join(shown.get().split())
    lines = [line.split() for line in shown.get().splitlines()]
    assert ["mixed", "0.4", "of", "bytes"] in [line[:4] for line in lines]
    assert ["svd", "0.4", "1"] in [line[:3] for line in lines]
