"""Trellis-coded tables: within the budget, better where it matters, and refused where they cannot be."""

import copy
from pathlib import Path

import pytest
import torch
from tests.embedding.layers import random_table
from tests.tiny import planted_table
from torch import Tensor

import foldflat
from foldflat.embedding import mixing
from foldflat.embedding.baselines import QuantizedEmbedding
from foldflat.embedding.error import table_error
from foldflat.embedding.mixed import ClassLayout, MixedEmbedding
from foldflat.embedding.mixing import choose_scheme, coded, fit_mixed
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.embedding.splitting import _without_small, row_classes
from foldflat.embedding.trellis import window_values
from foldflat.errors import BudgetError, DataError, RecipeError

N, D = 1500, 24


@pytest.fixture(scope="module")
def table() -> Tensor:
    """Return rows whose directions differ in variance."""
    return random_table(N, D) * torch.logspace(0, -1, D)


@pytest.mark.parametrize("ratio", [3, 5, 8])
def test_the_budget_is_used_and_never_exceeded(table: Tensor, ratio: int) -> None:
    """Every stored byte is counted, and less than three bytes a row are left over."""
    budget = table.nbytes // ratio
    module = fit_mixed(table, None, budget)
    assert budget - 3 * N <= module.size_bytes <= budget
    assert module.size_bytes == sum(tensor.nbytes for tensor in module.state_dict().values())


def test_fewer_bytes_than_int4_rows_for_no_more_loss(table: Tensor) -> None:
    """At four fifths of the bytes of int4 rows the loss is smaller, the table of windows left out of both."""
    rival = QuantizedEmbedding.from_table(table, "int4")
    module = fit_mixed(table, None, int(0.8 * rival.size_bytes) + 8192)
    assert table_error(table, module).energy_lost < table_error(table, rival).energy_lost


def test_heavy_rows_get_more_bits(table: Tensor) -> None:
    """With skewed weights the weighted loss falls by a third; the heaviest tenth has twice the bytes of the rest."""
    weights = torch.arange(1, N + 1, dtype=torch.float64).reciprocal()
    budget = 8192 + 6 * N
    plain, weighted = (fit_mixed(table, given, budget) for given in (None, weights))
    assert table_error(table, weighted, weights).weighted < 0.67 * table_error(table, plain, weights).weighted
    sizes = torch.tensor([layout.schedule.n_bytes for layout in weighted.layouts])
    by_row = sizes[weighted.assignment.long()].double()
    assert by_row[: N // 10].mean() > 2 * by_row[N // 10 :].mean()


def test_several_bases_where_rows_lie_in_several_subspaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four planted planes of dimension 4 in 24 are found, and lose less than half of what one basis does."""
    rows, _ = planted_table(1500, D, 4, 4, noise=0.02)
    found = fit_mixed(rows, None, 8192 + 6 * 1500)
    assert len(found.ranks) > 1
    monkeypatch.setattr(mixing, "_BASES", (1,))
    one = fit_mixed(rows, None, 8192 + 6 * 1500)
    assert table_error(rows, found).energy_lost < 0.5 * table_error(rows, one).energy_lost


def test_bases_of_different_rank_are_looked_up_together() -> None:
    """Classes of 16 and of 12 directions are read at once; rows are what logits of unit vectors give."""
    layouts = [ClassLayout(10, 0, (4,) * 8), ClassLayout(6, 1, (4,) * 6)]
    module = MixedEmbedding(16, 20, layouts, [16, 12])
    generator = torch.Generator().manual_seed(0)
    module.codes.random_(0, 256, generator=generator)
    module.bases.normal_(generator=generator)
    module.scales.fill_(1)
    module.window_values.copy_(window_values())
    module.set_labels(torch.tensor([0] * 10 + [1] * 6))
    torch.testing.assert_close(module.logits(torch.eye(20)).T, module.to_dense())


@pytest.mark.parametrize("name", ["subspaces", "subspaces-int8", "mixed"])
def test_a_padding_row_in_float64_is_exact(name: str) -> None:
    """It keeps the bits that float32 has no place for."""
    table = random_table(300, 8, dtype=torch.float64)
    kind, _, coefficients = name.partition("-")
    changes = {"coefficients": coefficients} if coefficients else {}
    if kind == "mixed":
        changes = {"coefficients": kind, "budget_bytes": 14000}
    embedding = torch.nn.Embedding.from_pretrained(table, padding_idx=5)
    made = foldflat.compress(embedding, EmbeddingRecipe(**changes)).model
    assert torch.equal(made(torch.tensor([5, 2]))[0], table[5])


def test_rows_do_not_depend_on_those_looked_up_beside_them(table: Tensor) -> None:
    """A row twice and among all is the same but for rounding, in the shape asked for; the padding row is exact."""
    module = fit_mixed(table, torch.linspace(1, 9, N), table.nbytes // 4, padding_idx=7)
    ids = torch.tensor([[3, 7, 3], [N - 1, 0, 7]])
    torch.testing.assert_close(module(ids), module.to_dense()[ids])
    assert torch.equal(module(ids)[0, 0], module(ids)[0, 2])
    assert torch.equal(module(torch.tensor([7]))[0], table[7])
    assert module(torch.empty(0, dtype=torch.int64)).shape == (0, D)


def test_a_change_of_type_is_about_what_is_returned(table: Tensor) -> None:
    """Half precision returns the same rows rounded; codes, scales and bases stay as they are."""
    module = fit_mixed(table, None, table.nbytes // 4)
    half = copy.deepcopy(module).to(torch.bfloat16)
    ids = torch.arange(50)
    assert torch.equal(half(ids), module(ids).bfloat16())
    assert all(torch.equal(a, b) for a, b in zip(half.buffers(), module.buffers(), strict=True) if a.numel())


def test_a_saved_table_comes_back_and_the_report_counts_it(table: Tensor, tmp_path: Path) -> None:
    """The same rows after a reload; the bytes reported are those of the module; no basis is shared."""
    recipe = foldflat.EmbeddingRecipe(coefficients="mixed", budget_bytes=table.nbytes // 6)
    result = foldflat.compress(torch.nn.Embedding.from_pretrained(table, padding_idx=2), recipe)
    foldflat.save(result, tmp_path / "saved")
    loaded = foldflat.load(tmp_path / "saved")
    assert isinstance(result.model, MixedEmbedding)
    assert torch.equal(loaded(torch.arange(N)), result.model(torch.arange(N)))
    (entry,) = result.report["tables"]
    assert entry["size_bytes_after"] == result.model.size_bytes <= table.nbytes // 6
    assert entry["n_bases"] == entry["n_subspaces"] == len(result.model.ranks)


def test_what_cannot_be_is_refused_with_the_way_out(table: Tensor) -> None:
    """A budget below the windows and labels alone, a keep ratio, a number of subspaces."""
    with pytest.raises(BudgetError, match="8000 bytes are too few for a table of 1500 x 24; hint: "):
        fit_mixed(table, None, 8000)
    with pytest.raises(DataError, match="too large for scales in float16; hint: method 'int8'"):
        fit_mixed(table * 1e7, None, 20_000)
    with pytest.raises(BudgetError, match="the only row of the table is its padding row"):
        fit_mixed(table[:1], None, 20_000, padding_idx=0)
    with pytest.raises(BudgetError, match="12000 bytes are too few"):
        fit_mixed(random_table(5000, 1), None, 12_000)
    with pytest.raises(RecipeError, match='"mixed" have any size in bytes; hint: give `budget_bytes`'):
        foldflat.EmbeddingRecipe(keep_ratio=0.3, coefficients="mixed")
    with pytest.raises(RecipeError, match='"mixed" choose their bases'):
        foldflat.EmbeddingRecipe(budget_bytes=9000, coefficients="mixed", n_subspaces=3)


@pytest.mark.parametrize("shape", [(1, 8), (300, 1), (300, 5)])
def test_small_and_odd_tables_are_coded_too(shape: tuple[int, int]) -> None:
    """One row, one column, an odd number of columns: whatever the budget gives, nothing breaks."""
    rows = random_table(*shape)
    module = fit_mixed(rows, None, 8192 + 20 * max(shape) + 200)
    assert module.to_dense().shape == shape
    if len(rows) > 1:
        assert table_error(rows, module).energy_lost < 0.1


def test_rows_of_zeros_stay_zeros() -> None:
    """A table of nothing takes no codes, and zero rows among others come back small."""
    nothing = fit_mixed(torch.zeros(40, 8), None, 9000)
    assert not nothing.to_dense().any()
    assert isinstance(nothing, MixedEmbedding)


def test_bases_are_stored_as_what_promises_less_loss() -> None:
    """At many bits a number float16, at few int8; both keep to the budget and lose what was foreseen."""
    for (n, d), smaller, dtype in (((2000, 16), 4, torch.float16), ((400, 64), 6, torch.int8)):
        table = random_table(n, d) * torch.logspace(0, -1, d)
        energy, budget = float(table.double().square().sum()), table.nbytes // smaller
        scheme = choose_scheme(table, None, budget)
        layer = coded(table, scheme, None)
        assert layer.bases.dtype == scheme.basis_dtype == dtype
        assert layer.size_bytes <= budget
        assert table_error(table, layer).energy_lost == pytest.approx(scheme.lost / energy, rel=0.25)
        twin = MixedEmbedding.from_spec(layer.spec(), dtype=torch.float32, device=None)
        twin.load_state_dict(layer.state_dict())
        assert torch.equal(twin.to_dense(), layer.to_dense())
        assert torch.equal(copy.deepcopy(layer).half().bases, layer.bases)


def test_rows_of_more_energy_are_a_class_of_their_own() -> None:
    """Of 2,000 rows half are four times as long: each has its classes, and all lose as if they were alike."""
    lengths = torch.where(torch.arange(2000) % 2 == 0, 4.0, 1.0)
    alike = random_table(2000, 16)
    table = alike * lengths[:, None]
    layer = fit_mixed(table, None, table.nbytes // 4)
    mistaken = torch.isin(layer.assignment[::2], layer.assignment[1::2].unique())
    assert mistaken.double().mean() < 0.01
    other = fit_mixed(alike, None, table.nbytes // 4)
    assert table_error(table, layer).energy_lost < 1.3 * table_error(alike, other).energy_lost


def test_a_class_has_enough_rows_for_its_scales() -> None:
    """Rows of every energy and weight make classes of 64 rows or more, unless their weight has no more of them."""
    table = random_table(3000, 8) * torch.logspace(0, -3, 3000)[:, None]
    weights = torch.where(torch.arange(3000) % 300 == 0, 64.0, 1.0).double()
    classes = row_classes(table, weights, padding_idx=3)
    assert classes[3] == -1
    sizes = torch.bincount(classes[classes >= 0])
    least, second = sizes.sort().values[:2].tolist()
    assert least == 10
    assert second >= 64
    # the last rows of a weight are joined to those before, where they are few
    for rows, expected in (
        ([3, 90, 70, 20, 10, 5, 9], [0, 0, 2, 2, 2, 5, 5]),
        ([0, 70, 80, 90, 63, 99, 1], [0, 1, 2, 3, 3, 5, 5]),
        ([80, 1, 0, 0, 0, 1, 70], [0, 0, 2, 3, 4, 5, 5]),
    ):
        classes = torch.arange(7).repeat_interleave(torch.tensor(rows))
        assert torch.equal(_without_small(classes, None), torch.tensor(expected)[classes])


@pytest.mark.parametrize("kind", ["alike", "by weight", "by energy", "three light rows"])
def test_the_bytes_that_are_said_to_be_enough_are_enough(table: Tensor, kind: str) -> None:
    """Whatever classes the rows make, and no more than some bytes a row."""
    rows, weights = table, None
    if kind == "by weight":
        weights = torch.arange(1, N + 1, dtype=torch.float64).reciprocal()
    if kind == "three light rows":
        weights = torch.where(torch.arange(N) < 3, 1e-4, 1.0).double()
    if kind == "by energy":
        rows = table * torch.randn(N, 1, generator=torch.Generator().manual_seed(0)).exp()
    with pytest.raises(BudgetError) as caught:
        fit_mixed(rows, weights, 8000)
    enough = int(str(caught.value).rpartition("hint: ")[2].split()[0])
    assert table_error(rows, fit_mixed(rows, weights, enough)).energy_lost < 1
    assert enough < 8192 + 4 * N


def test_tables_are_coded_in_inference_mode_too(table: Tensor) -> None:
    """It is of one thread alone, and codes are made on several; the bits are the same."""
    expected = fit_mixed(table, None, 14_000).state_dict()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            found = fit_mixed(table, None, 14_000).state_dict()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
