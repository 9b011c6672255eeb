"""The planner: the best of everything it tries, the truth about what it cannot store, and what is left of a search."""

import sys
from typing import Any

import pytest
import torch
from tests.embedding.layers import random_table
from torch import Tensor, nn

import foldflat
from foldflat.embedding import fitting, previews, search
from foldflat.embedding.candidates import Task, measure
from foldflat.embedding.mixing import fit_mixed
from foldflat.embedding.plan import TablePlan
from foldflat.embedding.previews import Sample, preview_mixed, preview_subspaces
from foldflat.embedding.rivals import Bound, product_codes, trimmed
from foldflat.errors import BudgetError, MissingDependencyError

N, D = 700, 12
STORED = (
    {"method": "int8"},
    {"method": "int4"},
    {"method": "svd", "coefficients": "bfloat16"},
    {"coefficients": "mixed"},
    {"coefficients": "bfloat16"},
    {},
)


@pytest.fixture
def table() -> Tensor:
    """Return rows whose directions differ in variance."""
    return random_table(N, D) * torch.logspace(0, -1, D)


@pytest.fixture
def weights() -> Tensor:
    """Return row weights that differ by factors of hundreds."""
    return torch.arange(1, N + 1, dtype=torch.float64).reciprocal()


def planned(table: Tensor, **settings: Any) -> TablePlan:
    """Return the plan that a search makes for a bare table."""
    return foldflat.plan(table, foldflat.EmbeddingRecipe(method="auto", **settings)).tables[0]


def lost_by_weight(table: Tensor, model: nn.Module, weights: Tensor) -> float:
    """Return the weighted energy lost, from the rows that are looked up."""
    with torch.no_grad():
        lost = (table - model(torch.arange(len(table)))).double().square().sum(1)
    return float((weights @ lost) / (weights @ table.double().square().sum(1)))


@pytest.mark.parametrize("budget", [13_000, 11_000])
def test_the_winner_loses_least_of_all_that_keep_to_the_budget(
    table: Tensor, weights: Tensor, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every method fitted by its own recipe, its loss by weight computed from its rows: none is better."""
    # hundreds of subspaces are no use here and take most of the time
    monkeypatch.setattr(fitting, "MOST_BYTE_CODES", 4)
    entry = planned(table, budget_bytes=budget, row_weights=weights)
    losses = {}
    for settings in STORED:
        try:
            recipe = foldflat.EmbeddingRecipe(budget_bytes=budget, row_weights=weights, **settings)
            losses[str(settings)] = lost_by_weight(table, foldflat.compress(table, recipe).model, weights)
        except BudgetError:
            continue
    best = min(losses.values())
    assert entry.weighted_energy_lost == pytest.approx(best, rel=1e-5)
    assert entry.size_bytes_after <= budget
    (row,) = [row for row in entry.candidates if row["name"] == entry.winner]
    assert row["weighted_energy_lost"] == pytest.approx(best, rel=1e-5)
    assert entry.reason.startswith(f"Use {entry.winner}: it loses")


def test_int8_is_the_answer_where_there_is_room_for_it(table: Tensor) -> None:
    """What loses no more than int8 rows, to what nobody notices, and is larger, does not win."""
    entry = planned(table, budget_bytes=2 * N * (D + 4), n_subspaces=2)
    assert (entry.method, entry.winner) == ("int8", "int8")
    assert entry.reason.startswith(f"Use int8: it loses 0.00{entry.weighted_energy_lost * 1e5:.0f}% in 11,200 bytes")


def test_less_than_a_byte_is_too_few() -> None:
    """A small table beside a large one gets next to nothing of the budget, and is the one that the error names."""
    tables = nn.ModuleList([nn.Embedding(1, 2), nn.Embedding(500, 32)])
    with pytest.raises(BudgetError, match="1 bytes are too few for table `0`"):
        foldflat.plan(tables, foldflat.EmbeddingRecipe(budget_bytes=3000, method="auto"))


def test_the_front_is_what_nothing_measured_beats(table: Tensor) -> None:
    """Rows are sorted by bytes; those marked lose less than all that are smaller, the others do not."""
    entry = planned(table, budget_bytes=9_000, n_subspaces=2)
    rows = [row for row in entry.candidates if row["size_bytes"] is not None]
    assert [row["size_bytes"] for row in rows] == sorted(row["size_bytes"] for row in rows)
    for row in rows:
        smaller = [other for other in rows if other is not row and other["size_bytes"] <= row["size_bytes"]]
        beaten = any(other["weighted_energy_lost"] <= row["weighted_energy_lost"] for other in smaller)
        assert row["front"] is not beaten, row["name"]
        assert row["times_smaller"] == pytest.approx(table.nbytes / row["size_bytes"])


def test_a_search_that_is_ended_keeps_what_it_found(table: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of what was measured is chosen, the rest is named as not measured, and the plan says so."""

    def ended(task: Task, candidate: Any) -> Any:
        if candidate.is_mixed:
            raise KeyboardInterrupt
        return measure(task, candidate)

    monkeypatch.setattr(search, "measure", ended)
    entry = planned(table, budget_bytes=14_000)
    notes = {row["name"]: row["note"] for row in entry.candidates}
    assert entry.winner == "int8"
    assert entry.ended_early
    assert notes["int8"] == ""
    assert notes["mixed"] == notes["subspaces bfloat16"] == "not measured: the search was ended before"
    assert "The search was ended early" in entry.reason


def test_a_search_that_is_ended_before_it_found_anything_is_an_interrupt(
    table: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to keep."""

    def ended(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "measure", ended)
    with pytest.raises(KeyboardInterrupt):
        planned(table, budget_bytes=14_000)


def test_an_interrupted_fit_leaves_the_best_of_those_that_are_fitted(
    table: Tensor, weights: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dear candidate that was only foreseen is given up for one that is there."""

    def ended(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("foldflat.embedding.candidates.PREVIEW_ROWS", N // 2)
    monkeypatch.setattr(search, "fit_fully", ended)
    monkeypatch.setattr(fitting, "MOST_BYTE_CODES", 2)
    entry = planned(table, budget_bytes=11_000, row_weights=weights)
    notes = {row["name"]: row["note"] for row in entry.candidates}
    assert entry.winner == "svd bfloat16"
    assert any(note.endswith("the search was ended before it was fitted") for note in notes.values())


def test_without_faiss_the_row_says_that_it_was_not_measured(table: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to get it."""
    monkeypatch.setitem(sys.modules, "faiss", None)
    (row,) = [row for row in planned(table, budget_bytes=12_000, n_subspaces=1).candidates if row["name"] == "pq"]
    assert row["size_bytes"] is None
    assert row["note"] == "not measured: faiss is not installed; hint: pip install faiss-cpu"
    with pytest.raises(MissingDependencyError, match="pip install faiss-cpu"):
        product_codes(Sample(table, torch.arange(N), N, None), Bound(12_000))


def test_numbers_too_large_for_a_candidate_leave_the_others(table: Tensor) -> None:
    """Scales of trellis codes are float16: the row says that they do not fit, and something else is taken."""
    entry = planned(table * 1e7, budget_bytes=12_000)
    (row,) = [row for row in entry.candidates if row["name"] == "mixed"]
    assert "too large for scales in float16" in row["note"]
    assert entry.winner != "mixed"


def test_a_rival_that_is_better_is_named_and_not_chosen() -> None:
    """Rows made of two halves out of sixteen each: product codes lose nothing, and nothing of ours is as good."""
    pytest.importorskip("faiss")
    halves = random_table(16, 4)
    chosen = torch.randint(16, (2, 2000), generator=torch.Generator().manual_seed(0))
    table = torch.cat([halves[chosen[0]], halves[chosen[1]]], 1)
    entry = planned(table, budget_bytes=10_000, n_subspaces=1)
    (row,) = [row for row in entry.candidates if row["name"] == "pq"]
    assert row["size_bytes"] == 2 * 2000 + 2 * 256 * 8
    assert row["weighted_energy_lost"] < 1e-6 < entry.weighted_energy_lost
    assert entry.winner == "svd bfloat16"
    assert "Better, but not stored by foldflat, is pq: it loses 0.000% in 8,096 bytes" in entry.reason


def test_trimming_loses_the_rows_that_it_drops() -> None:
    """By hand: of four rows of energy 1, 4, 9 and 16 the two commonest fit; then the one that was not counted goes."""
    rows = torch.tensor([[1.0, 0], [0, 2], [3, 0], [0, 4]])
    sample = Sample(rows, torch.arange(4), 4, torch.tensor([3.0, 1, 2, 1]))
    found = trimmed(sample, torch.tensor([9.0, 1, 4, 0]), None, Bound(budget_bytes=2 * 8 + 4 * 2))
    assert (found.size_bytes, found.energy_lost) == (24, pytest.approx(20 / 30))
    assert found.weighted == pytest.approx((4 + 16) / (3 + 4 + 18 + 16))
    whole = trimmed(sample, torch.tensor([9.0, 1, 4, 0]), None, Bound(budget_bytes=1000))
    assert (whole.size_bytes, whole.energy_lost) == (3 * 8 + 4 * 2, pytest.approx(16 / 30))
    with pytest.raises(BudgetError, match="least is 16 bytes, an index and one row"):
        trimmed(sample, torch.tensor([9.0, 1, 4, 0]), None, Bound(budget_bytes=15))


def test_trellis_codes_are_foreseen_from_some_rows_of_every_class(
    table: Tensor, weights: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact bytes; losses, from half of the rows, within 15 % of those of all."""
    monkeypatch.setattr(previews, "_CODED_NUMBERS", N * D // 2)
    for given in (None, weights):
        found = preview_mixed(Sample(table, torch.arange(N), N, given), 13_000)
        fitted = fit_mixed(table, given, 13_000)
        assert found.rows < 0.6 * N
        assert found.size_bytes == fitted.size_bytes
        assert found.parameters == fitted.parameters_stored
        by_weight = torch.ones(N, dtype=torch.float64) if given is None else given
        assert found.weighted == pytest.approx(lost_by_weight(table, fitted, by_weight), rel=0.15)
        assert found.energy_lost == pytest.approx(lost_by_weight(table, fitted, torch.ones_like(by_weight)), rel=0.15)


def test_what_is_foreseen_of_subspaces_is_not_too_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 240 of 600 rows, judged by 60: no less than a fit to all of them loses, and not twice as much."""
    from foldflat.cluster.search import search_subspaces
    from foldflat.cluster.trials import SearchSettings

    table = random_table(600, 12)
    monkeypatch.setattr(previews, "PREVIEW_ROWS", 300)
    settings = SearchSettings(0.4 * table.numel(), max_subspaces=8)
    found = preview_subspaces(Sample(table, torch.arange(600), 600, None), None, settings, 1)
    clustering, _ = search_subspaces(table, None, settings)
    lost = clustering.cost / float(table.double().square().sum())
    assert found.rows == 300
    assert 0.95 * lost < found.weighted < 2 * lost


def test_a_budget_below_everything_names_the_smallest_and_what_it_loses(table: Tensor) -> None:
    """So does an error that nothing keeps to."""
    with pytest.raises(
        BudgetError,
        match=r"900 bytes are too few for the table \(700 x 12\): the smallest is svd bfloat16 of rank 1 in 2124 "
        r"bytes, which loses 6\d\.\d% of the energy\nhint: raise the budget",
    ):
        planned(table, budget_bytes=900, n_subspaces=1)
    assert planned(table, budget_bytes=2124, n_subspaces=1).winner == "svd bfloat16"
    with pytest.raises(BudgetError, match=r"no method loses at most 1e-12 .* closest is int8, which loses 0\.00\d%"):
        planned(table, max_error=1e-12, n_subspaces=1)


def test_with_a_bound_on_the_loss_every_candidate_is_the_smallest_that_keeps_to_it(
    table: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also trellis codes; the fewest bytes win, and a plan in JSON gives the same bits without a search."""
    monkeypatch.setattr(fitting, "MOST_BYTE_CODES", 2)
    entry = foldflat.plan(table, foldflat.EmbeddingRecipe(method="auto", max_error=0.06))
    (found,) = entry.tables
    assert found.energy_lost <= 0.06
    rows = {row["name"]: row for row in found.candidates}
    assert rows["mixed"]["energy_lost"] <= 0.06
    assert rows["mixed"]["size_bytes"] < rows["svd bfloat16"]["size_bytes"] < rows["int8"]["size_bytes"]
    assert (
        found.winner
        == min((row for row in found.candidates if row["fits"] and row["storable"]), key=lambda row: row["size_bytes"])[
            "name"
        ]
    )
    again = foldflat.apply(table, foldflat.EmbeddingPlan.from_json(entry.to_json()))
    for name, tensor in foldflat.apply(table, entry).model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
