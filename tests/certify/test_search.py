"""The search: what is measured, what is promised, and how many examples a promise would have taken."""

from typing import Any

import numpy as np
import pytest

from foldflat.certify import Risk, bonferroni_graph, certify, examples_needed
from foldflat.errors import RecipeError


def rate(failures: int, n: int = 1000) -> Risk:
    """Return a risk of 0 and 1."""
    return Risk("disagreement", np.repeat([1.0, 0.0], [failures, n - failures]), 0.0, 1.0, "binomial")


def drop(worse: int, better: int, n: int) -> Risk:
    """Return a paired drop."""
    return Risk("accuracy drop", np.repeat([1.0, -1.0, 0.0], [worse, better, n - worse - better]), -1.0, 1.0, "paired")


def test_the_search_ends_at_the_first_failure() -> None:
    """.05 with 95 %: 38 of 1,000 is just safe, 39 is not; what is smaller is not looked at."""
    failures = {"75 %": 10, "50 %": 38, "40 %": 39, "30 %": 5}
    asked: list[str] = []

    def measure(name: str) -> Risk:
        asked.append(name)
        return rate(failures[name])

    found = certify(list(failures), measure, 0.05)
    assert asked == ["75 %", "50 %", "40 %"]
    assert found.promised == ("75 %", "50 %")
    assert found.chosen == "50 %"
    assert [one.promised for one in found.tested] == [True, True, False]
    assert found.tested[1].p_value < 0.05 < found.tested[2].p_value
    assert certify(["40 %"], measure, 0.05).chosen is None


def test_a_test_that_was_given_up_has_failed() -> None:
    """Whatever its p-value on the examples that were measured; what comes behind it is not looked at."""
    risks = {"a": rate(10), "b": rate(1, 500), "c": rate(10)}
    assert risks["b"].p_value(0.05) < 1e-6
    found = certify(list(risks), risks.__getitem__, 0.05, n=1000)
    assert [(one.name, one.promised) for one in found.tested] == [("a", True), ("b", False)]
    assert found.tested[1].p_value == 1
    assert certify(list(risks), risks.__getitem__, 0.05).chosen == "c"


def test_without_an_order_each_has_a_share() -> None:
    """Two candidates that are not nested: one that fails does not hide the other, and neither has all of delta."""
    risks = {"svd": rate(60), "ours": rate(30)}
    found = certify(list(risks), risks.__getitem__, 0.05, graph=bonferroni_graph(list(risks)))
    assert found.promised == ("ours",)
    with pytest.raises(RecipeError, match=r"the graph tests \['a'\], the candidates are \['b'\]"):
        certify(["b"], risks.__getitem__, 0.05, graph=bonferroni_graph(["a"]))
    with pytest.raises(RecipeError, match="each once"):
        certify([], risks.__getitem__, 0.05)


def test_the_examples_needed_would_keep_the_promise() -> None:
    """A quarter fewer would not; a mean at the limit never would."""
    for risk, limit in ((rate(39), 0.05), (drop(3, 3, 400), 0.01), (rate(0, 10), 0.05)):
        n = examples_needed(risk, limit)
        assert n is not None
        shares = [np.mean(risk.values == value) for value in (1, -1)]

        def enough(n: int, risk: Risk = risk, shares: list[Any] = shares, limit: float = limit) -> bool:
            worse, better = (round(float(share) * n) for share in shares)
            like = rate(worse, n) if risk.kind == "binomial" else drop(worse, better, n)
            return like.p_value(limit) <= 0.05

        assert enough(int(n * 1.1))
        assert not enough(int(n * 0.75))
    assert examples_needed(rate(50), 0.05) is None
    assert examples_needed(drop(4, 2, 100), 0.02) is None
    # from 59 examples on, no failure at all keeps a promise of 5 %: .95^59 < .05
    assert examples_needed(rate(0, 10), 0.05) in (58, 59, 60)
