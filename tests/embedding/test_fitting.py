"""Check that what a recipe asks for is what comes out: budgets, errors, counts, and the method that is best."""

import re
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.embedding.layers import random_table
from tests.tiny import planted_table
from torch import Tensor, nn

import foldflat
from foldflat import EmbeddingRecipe
from foldflat.cluster.trials import SearchSettings
from foldflat.errors import BudgetError, DataError, RecipeError


def _embedding(table: Tensor, padding_idx: int | None = None) -> nn.Embedding:
    return nn.Embedding.from_pretrained(table, freeze=False, padding_idx=padding_idx)


@torch.no_grad()
def _energy_lost(table: Tensor, module: nn.Module) -> float:
    lost = (table.double() - module(torch.arange(len(table))).detach().double()).square().sum()
    return float(lost / table.double().square().sum())


@given(
    n=st.integers(12, 60),
    d=st.integers(3, 40),
    share=st.floats(0.05, 1.2),
    method=st.sampled_from(["subspaces", "svd", "int8", "int4", "auto"]),
    n_subspaces=st.sampled_from(["auto", 1, 3, 3]),
    free_ranks=st.booleans(),
    padding_idx=st.sampled_from([None, 0, -1]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.float64]),
    coefficients=st.sampled_from(["same", "bfloat16", "int8", "int4"]),
)
def test_a_budget_of_bytes_is_never_exceeded(
    n: int, d: int, share: float, padding_idx: int | None, dtype: torch.dtype, **settings: Any
) -> None:
    """Every stored byte counts. A budget that is too small for anything is refused, never overdrawn."""
    if settings["method"] == "svd":
        settings["n_subspaces"] = "auto"
    if settings["method"] in ("int8", "int4"):
        settings["coefficients"] = "same"
    table = planted_table(n, d, 3, max(1, d // 4))[0].to(dtype)
    budget = max(1, int(share * table.numel() * table.element_size()))
    try:
        result = foldflat.compress(_embedding(table, padding_idx), EmbeddingRecipe(budget_bytes=budget, **settings))
    except BudgetError:
        return
    stored = sum(tensor.numel() * tensor.element_size() for tensor in result.model.state_dict().values())
    assert result.report["size_bytes_after"] == stored <= budget


@pytest.mark.parametrize(("padding_idx", "code"), [(None, torch.uint8), (0, torch.int16)])
def test_a_budget_counts_the_bytes_of_the_codes(padding_idx: int | None, code: torch.dtype) -> None:
    """256 subspaces take one byte a row, with a code for the padding row two; both are within the budget."""
    module = _embedding(random_table(400, 4), padding_idx)
    result = foldflat.compress(module, EmbeddingRecipe(budget_bytes=6600, n_subspaces=256, free_ranks=False))
    if len(result.model.ranks) == 256:
        assert result.model.assignment.dtype == code
    assert result.report["size_bytes_after"] <= 6600


@pytest.mark.parametrize("padding_idx", [None, 0])
def test_the_search_never_needs_a_second_byte(padding_idx: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget is turned into parameters before k is known, at one byte a row; k must keep to it."""
    asked: list[int] = []

    def stopped(_: Any, __: Any, settings: SearchSettings, **___: Any) -> None:
        asked.append(settings.max_subspaces)
        raise KeyboardInterrupt

    monkeypatch.setattr("foldflat.embedding.fitting.search_subspaces", stopped)
    with pytest.raises(KeyboardInterrupt):
        foldflat.compress(_embedding(random_table(60, 6), padding_idx), EmbeddingRecipe(budget_bytes=1000))
    assert asked[0] + (padding_idx is not None) <= 256


def test_tables_share_a_budget_of_bytes() -> None:
    """Three tables of different types and sizes together stay below it, and leave little unused."""
    model = nn.ModuleList(
        [
            nn.Embedding.from_pretrained(planted_table(300, 16, 3, 4)[0]),
            nn.Embedding.from_pretrained(planted_table(100, 24, 3, 4, seed=1)[0].half(), padding_idx=3),
            nn.Embedding.from_pretrained(planted_table(80, 8, 2, 2, seed=2)[0].double()),
        ]
    )
    budget = 16_000
    result = foldflat.compress(model, EmbeddingRecipe(budget_bytes=budget, n_subspaces=2))
    stored = sum(tensor.numel() * tensor.element_size() for tensor in result.model.state_dict().values())
    assert 0.95 * budget < result.report["size_bytes_after"] == stored <= budget


@pytest.mark.parametrize("padding_idx", [None, 0])
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "svd"},
        {"n_subspaces": 3},
        {"n_subspaces": 3, "free_ranks": False},
        {"method": "svd", "coefficients": "int8"},
        {"n_subspaces": 3, "coefficients": "int4"},
    ],
)
def test_the_smallest_budget_is_named_and_suffices(padding_idx: int | None, settings: dict[str, Any]) -> None:
    """The error gives a keep ratio and a number of bytes; both work, and a little less does not."""
    module = _embedding(planted_table(40, 16, 3, 4)[0], padding_idx)
    with pytest.raises(BudgetError, match="too few for rank 1") as caught:
        foldflat.compress(module, EmbeddingRecipe(keep_ratio=0.01, **settings))
    found = re.search(r"the smallest is keep_ratio ([0-9.]+), or (\d+) bytes", str(caught.value))
    assert found is not None
    for recipe in (
        EmbeddingRecipe(keep_ratio=float(found[1]) + 1e-4, **settings),
        EmbeddingRecipe(budget_bytes=int(found[2]), **settings),
    ):
        foldflat.compress(module, recipe)
    for recipe in (
        EmbeddingRecipe(keep_ratio=float(found[1]) - 1e-3, **settings),
        EmbeddingRecipe(budget_bytes=int(found[2]) - 1, **settings),
    ):
        with pytest.raises(BudgetError, match=found[2]):
            foldflat.compress(module, recipe)


def test_integer_rows_that_do_not_fit_are_refused() -> None:
    """Their size is what it is; the message names it."""
    with pytest.raises(BudgetError, match="takes 1200 bytes in int8, more than its budget of 1199"):
        foldflat.compress(random_table(60, 16), EmbeddingRecipe(method="int8", budget_bytes=1199))


@pytest.mark.parametrize(
    ("settings", "padding_idx"),
    [
        ({"n_subspaces": 3}, 2),
        ({"n_subspaces": 3, "free_ranks": False}, None),
        ({"method": "svd"}, 2),
        ({"method": "auto", "n_subspaces": 2}, 2),
        ({"n_subspaces": 3, "coefficients": "int8"}, 2),
        ({"n_subspaces": 3, "coefficients": "int4"}, None),
        ({}, None),
    ],
)
def test_a_bound_on_the_error_is_met(settings: dict[str, Any], padding_idx: int | None) -> None:
    """Measured on the table itself; and a wider bound does not cost more bytes."""
    table = planted_table(60, 8, 3, 2)[0]
    sizes = []
    for max_error in (0.02, 0.3):
        result = foldflat.compress(_embedding(table, padding_idx), EmbeddingRecipe(max_error=max_error, **settings))
        assert _energy_lost(table, result.model) <= max_error
        sizes.append(result.report["size_bytes_after"])
    assert sizes[1] <= sizes[0]


def test_a_bound_on_the_error_finds_the_ratios_that_many_subspaces_need() -> None:
    """Twenty subspaces of this small table do not fit in half of its parameters, but do in more."""
    table = planted_table(40, 16, 4, 3)[0]
    result = foldflat.compress(table, EmbeddingRecipe(max_error=0.01, n_subspaces=20))
    assert _energy_lost(table, result.model) <= 0.01


def test_an_error_that_no_ratio_reaches_is_refused() -> None:
    """Noise of full rank cannot be stored in fewer parameters without loss."""
    with pytest.raises(BudgetError, match=r"more than `max_error` 1e-09 of its energy at every keep ratio"):
        foldflat.compress(random_table(60, 16), EmbeddingRecipe(max_error=1e-9))


def test_parameters_are_counted_as_in_the_paper() -> None:
    """N j + k j d for equal ranks, with the largest j that fits: 7 of 100 x 20 at k = 2 and a half."""
    report = foldflat.compress(
        planted_table(100, 20, 2, 6)[0], EmbeddingRecipe(keep_ratio=0.5, n_subspaces=2, free_ranks=False)
    ).report
    assert report["tables"][0]["ranks"] == [7, 7]
    assert report["parameters_before"] == 2000
    assert report["parameters_after"] == 100 * 7 + 2 * 7 * 20


@hypothesis.settings(max_examples=10)
@given(keep_ratio=st.floats(0.3, 1.0), n_subspaces=st.sampled_from([2, 5]), seed=st.integers(0, 9))
def test_free_ranks_spend_the_parameters_they_are_given(keep_ratio: float, n_subspaces: int, seed: int) -> None:
    """Never more than the keep ratio, and less by fewer than one direction of the dearest subspace costs."""
    table = planted_table(60, 12, 4, 5, noise=0.3, seed=seed)[0]
    result = foldflat.compress(table, EmbeddingRecipe(keep_ratio=keep_ratio, n_subspaces=n_subspaces, seed=seed))
    ranks, sizes = result.model.ranks, result.model.sizes
    used = sum(rank * (size + 12) for rank, size in zip(ranks, sizes, strict=True))
    assert result.report["parameters_after"] == used <= keep_ratio * table.numel()
    if min(ranks) < 12:
        cheapest = min(size + 12 for rank, size in zip(ranks, sizes, strict=True) if rank < 12)
        assert used > keep_ratio * table.numel() - cheapest


def test_svd_is_the_best_of_its_rank() -> None:
    """Its energy lost is the tail of the singular values, computed by numpy's way instead of ours."""
    table = random_table(80, 16)
    result = foldflat.compress(table, EmbeddingRecipe(method="svd", keep_ratio=0.5))
    (rank,) = result.model.ranks
    energies = torch.linalg.svdvals(table.double()) ** 2
    assert rank == int(0.5 * 80 * 16 / 96)
    expected = float(energies[rank:].sum() / energies.sum())
    assert result.report["tables"][0]["energy_lost"] == pytest.approx(expected, rel=1e-4)


def test_reported_errors_are_those_of_the_rows() -> None:
    """Energy lost, its root, and both with row weights, from the rows that are looked up."""
    table, weights = planted_table(90, 16, 3, 4, noise=0.2)[0], torch.arange(1.0, 91.0)
    result = foldflat.compress(table, EmbeddingRecipe(keep_ratio=0.4, row_weights=weights))
    (entry,) = result.report["tables"]
    lost = (table - result.model.to_dense()).double().square().sum(1)
    energy = table.double().square().sum(1)
    assert entry["energy_lost"] == pytest.approx(float(lost.sum() / energy.sum()))
    assert entry["relative_error"] == pytest.approx(float((lost.sum() / energy.sum()).sqrt()))
    weighted = float((weights @ lost.to(weights.dtype)) / (weights @ energy.to(weights.dtype)))
    assert entry["weighted_energy_lost"] == pytest.approx(weighted, rel=1e-5)
    assert entry["weighted_relative_error"] == pytest.approx(weighted**0.5, rel=1e-5)


def test_row_weights_serve_the_rows_that_matter() -> None:
    """Ten rows that weigh a thousand times as much lose less than without weights."""
    table = random_table(200, 16)
    weights = torch.ones(200)
    weights[:10] = 1000
    lost = {}
    for name, given_weights in (("plain", None), ("weighted", weights)):
        module = foldflat.compress(
            table, EmbeddingRecipe(keep_ratio=0.4, n_subspaces=4, row_weights=given_weights)
        ).model
        lost[name] = float((table[:10] - module.to_dense()[:10]).square().sum())
    assert lost["weighted"] < 0.5 * lost["plain"]


@pytest.mark.parametrize(
    ("table", "settings", "method"),
    [
        (random_table(120, 32), {"n_subspaces": 2, "keep_ratio": 0.6}, "int8"),
        (random_table(120, 32), {"n_subspaces": 2, "budget_bytes": 120 * 20}, "int4"),
        (planted_table(400, 32, 2, 1, noise=0.0)[0], {"n_subspaces": 2, "keep_ratio": 0.2}, "subspaces"),
        (random_table(120, 32), {"n_subspaces": 2, "max_error": 0.0001}, "int8"),
        (random_table(120, 32), {"n_subspaces": 2, "max_error": 0.05}, "int4"),
        (planted_table(400, 32, 2, 1, noise=0.0)[0], {"n_subspaces": 2, "max_error": 0.0001}, "subspaces"),
    ],
)
def test_auto_takes_what_loses_least_or_is_smallest(table: Tensor, settings: dict[str, Any], method: str) -> None:
    """Within bytes the least error, within an error the fewest bytes; no rival on offer would have been better."""
    result = foldflat.compress(table, EmbeddingRecipe(method="auto", **settings))
    (entry,) = result.report["tables"]
    assert entry["method"] == method
    for rival in entry["rivals"].values():
        if "max_error" in settings:
            assert rival["energy_lost"] > settings["max_error"] or rival["size_bytes"] >= entry["size_bytes_after"]
        else:
            budget = settings.get("budget_bytes") or settings["keep_ratio"] * 4 * table.numel()
            assert rival["size_bytes"] > budget or rival["energy_lost"] >= entry["energy_lost"] - 1e-12


@pytest.mark.parametrize("method", ["subspaces", "svd", "int8", "int4"])
def test_tables_without_variety_are_compressed_all_the_same(method: str) -> None:
    """All zero, all equal, one row, one column: stored without loss where they have nothing to lose."""
    settings: dict[str, Any] = {"method": method} | ({"keep_ratio": 1.0} if method in ("subspaces", "svd") else {})
    zero = foldflat.compress(torch.zeros(20, 6), EmbeddingRecipe(**settings))
    assert not zero.model.to_dense().any()
    assert zero.report["tables"][0]["energy_lost"] == 0
    equal = foldflat.compress(torch.full((20, 6), 0.5), EmbeddingRecipe(**settings))
    assert equal.report["tables"][0]["energy_lost"] < 0.01
    for shape in ((1, 16), (50, 1)):
        table = random_table(*shape)
        if method in ("subspaces", "svd"):
            with pytest.raises(BudgetError, match="hint: subspaces make this table no smaller"):
                foldflat.compress(table, EmbeddingRecipe(**settings))
        else:
            assert _energy_lost(table, foldflat.compress(table, EmbeddingRecipe(**settings)).model) < 0.02


def test_many_equal_rows_cost_no_more_than_they_must() -> None:
    """Duplicates of three rows are three rows: k = 3 lines give them back."""
    table = random_table(3, 8).repeat(30, 1)
    result = foldflat.compress(table, EmbeddingRecipe(keep_ratio=0.2, n_subspaces=3))
    torch.testing.assert_close(result.model.to_dense(), table, atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    """The table and the first row, for every method; nothing is fitted."""
    model = nn.Sequential(nn.Embedding.from_pretrained(random_table(20, 6)))
    model[0].weight.data[[7, 9], 3] = value
    for method in ("subspaces", "int8", "auto"):
        with pytest.raises(DataError, match=rf"table `0` has {value} in row 7 of 20; weights must be finite"):
            foldflat.compress(model, EmbeddingRecipe(method=method))


@pytest.mark.parametrize(("padding_idx", "rows"), [(None, 20), (3, 19)])
def test_more_subspaces_than_rows_are_refused(padding_idx: int | None, rows: int) -> None:
    """The padding row needs none, so it does not count."""
    with pytest.raises(RecipeError, match=f"`n_subspaces` is 21, more than the {rows} rows of the table"):
        foldflat.compress(_embedding(random_table(20, 6), padding_idx), EmbeddingRecipe(n_subspaces=21))


def test_a_seed_decides_the_result_and_leaves_the_global_generators_alone() -> None:
    """Equal seeds give equal bits; torch's global stream stands where it stood."""
    table = planted_table(200, 16, 4, 3, noise=0.4)[0]
    state = torch.get_rng_state()
    first, again = (foldflat.compress(table, EmbeddingRecipe(n_subspaces=4, seed=3)).model for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
