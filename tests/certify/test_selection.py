"""Selections: what is rejected, in what order, with what is left of delta, and what is never looked at."""

import itertools

import numpy as np
import pytest

from foldflat.certify import TestGraph, bonferroni_graph, fixed_sequence, sequences_graph
from foldflat.errors import RecipeError


def holm(p_values: dict[str, float], delta: float) -> set[str]:
    """Step down by size, as Holm wrote it in 1979."""
    rejected: set[str] = set()
    for i, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if p_values[name] > delta / (len(p_values) - i):
            break
        rejected.add(name)
    return rejected


def test_a_fixed_sequence_ends_at_its_first_failure() -> None:
    """All of delta goes down the sequence; what stands behind a failure is not even asked."""
    asked: list[str] = []

    def p_value(name: str) -> float:
        asked.append(name)
        return {"a": 0.05, "b": 0.01, "c": 0.051, "d": 0.0}[name]

    assert fixed_sequence("abcd", p_value, 0.05) == ["a", "b"]
    assert asked == ["a", "b", "c"]


def test_without_an_order_it_is_holm() -> None:
    """For 200 draws of five p-values the graph of equal shares rejects what Holm's procedure does."""
    draw = np.random.default_rng(0)
    names = "abcde"
    for _ in range(200):
        p_values = dict(zip(names, draw.choice([0.001, 0.009, 0.012, 0.016, 0.024, 0.04, 0.2], 5), strict=True))
        assert set(bonferroni_graph(names).rejected(p_values.__getitem__, 0.05)) == holm(p_values, 0.05)


def test_the_order_of_names_does_not_matter() -> None:
    """Bretz et al., theorem 1: whatever is rejected first, in the end it is the same."""
    graph = {"a": {"b": 0.5, "c": 0.5}, "b": {"a": 0.3, "c": 0.7}, "c": {"d": 1.0}, "d": {"a": 1.0}}
    p_values = {"a": 0.012, "b": 0.018, "c": 0.03, "d": 0.049}
    found = set()
    for names in itertools.permutations("abcd"):
        tests = TestGraph(dict.fromkeys(names, 0.25), graph)
        found.add(frozenset(tests.rejected(p_values.__getitem__, 0.05)))
    assert found == {frozenset("abcd")}


def test_a_family_that_falls_feeds_the_others() -> None:
    """Two families of half of delta each: alone the second would stop, after the first it goes on with all of it."""
    p_values = {"a1": 0.02, "a2": 0.02, "b1": 0.024, "b2": 0.04, "b3": 0.06}
    graph = sequences_graph([["a1", "a2"], ["b1", "b2", "b3"]])
    assert graph.rejected(p_values.__getitem__, 0.05) == ["a1", "a2", "b1", "b2"]
    assert set(graph.rejected({**p_values, "a2": 0.03}.__getitem__, 0.05)) == {"a1", "b1"}


@pytest.mark.parametrize(
    ("shares", "passes", "message"),
    [
        ({"a": 0.6, "b": 0.6}, {}, r"the shares sums to 1\.2"),
        ({"a": 1.0}, {"a": {"z": 1.0}}, "what 'a' passes on names 'z', no hypothesis"),
        ({"a": 0.5, "b": 0.5}, {"a": {"b": -0.5}}, "what 'a' passes on sums to -0.5"),
    ],
)
def test_graphs_that_spend_too_much_are_refused(
    shares: dict[str, float], passes: dict[str, dict[str, float]], message: str
) -> None:
    """More than delta in all would break the promise."""
    with pytest.raises(RecipeError, match=message):
        TestGraph(shares, passes)
    with pytest.raises(RecipeError, match="at least one, each once"):
        sequences_graph([["a", "b"], ["a"]])
