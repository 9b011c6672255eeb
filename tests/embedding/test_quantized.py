"""Check subspaces whose coefficients are integers against slow and obvious versions of themselves."""

from pathlib import Path

import pytest
import torch
from tests.embedding.layers import quantized_layer, random_bases, random_labels, random_table
from tests.tiny import planted_table
from torch import Tensor

import foldflat
from foldflat.embedding.error import table_error
from foldflat.embedding.module import SubspaceEmbedding
from foldflat.embedding.quantized import QuantizedSubspaceEmbedding
from foldflat.embedding.quantizing import quantized_subspaces
from foldflat.errors import RecipeError

BITS = [4, 8]


def _slow_row(layer: QuantizedSubspaceEmbedding, row: int) -> Tensor:
    """Return one row from the whole stream of codes, number by number."""
    subspace = int(layer.assignment[row])
    if subspace == len(layer.ranks):
        return layer.fixed[0]
    stream = int.from_bytes(bytes(layer.codes.tolist()), "little")
    before = sorted(range(3), key=lambda i: layer.ranks[i] % 2)
    start = sum(layer.sizes[i] * layer.ranks[i] for i in before[: before.index(subspace)])
    start += layer.ranks[subspace] * sum(int(other) == subspace for other in layer.assignment[:row])
    first = 5 * layer.groups[subspace]
    total = torch.zeros(layer.embedding_dim)
    for j in range(layer.ranks[subspace]):
        code = (stream >> (layer.bits * (start + j))) % 2**layer.bits - 2 ** (layer.bits - 1)
        total += code * layer.scales[first + j] * layer.bases[first + j].float()
    return total


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("padding_idx", [None, 4])
def test_rows_are_those_of_a_loop_over_the_stored_bits(bits: int, padding_idx: int | None) -> None:
    """Ids of any shape, repeated and out of order; subspaces of one group read the same basis; padding is exact."""
    layer, table = quantized_layer(bits=bits, padding_idx=padding_idx)
    assert layer.ranks == [3, 2, 5]
    expected = torch.stack([_slow_row(layer, row) for row in range(60)])
    torch.testing.assert_close(layer.to_dense(), expected)
    ids = torch.tensor([[59, 4, 4], [0, 7, 4]])
    torch.testing.assert_close(layer(ids), expected[ids])
    assert layer(torch.empty(0, 2, dtype=torch.int64)).shape == (0, 2, 12)
    if padding_idx is not None:
        assert torch.equal(layer(torch.tensor(4)), table[4])
    rows = layer(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(ids), rows)


@pytest.mark.parametrize("bits", BITS)
def test_bytes_by_hand(bits: int) -> None:
    """20 rows of each rank 2, 3, 5; seven basis vectors of 12 bytes and a scale; two bits a row for three labels."""
    layer, _ = quantized_layer(bits=bits)
    assert layer.size_bytes == 20 * (2 + 3 + 5) * bits // 8 + 7 * (12 + 4) + 60 * 2 // 8
    assert layer.parameters_stored == 20 * (2 + 3 + 5) + 7 * 12


@pytest.mark.parametrize(("bits", "most"), [(4, 0.025), (8, 0.0003)])
def test_integers_lose_little_beside_the_same_subspaces_in_float32(bits: int, most: float) -> None:
    """Of normal coefficients 4 bits lose 1.2 % of the energy, 8 bits hardly anything; so small rows as large ones."""
    table, labels = random_table(3000, 12), random_labels(3000, 2)
    bases = [torch.linalg.svd(table[labels == i])[2][:rank] for i, rank in enumerate((8, 7))]
    exact = table_error(table, SubspaceEmbedding.from_table(table, labels, bases)).energy_lost
    for scale in (1e-30, 1.0, 1e15):
        lost = table_error(table * scale, quantized_subspaces(table * scale, labels, bases, bits=bits)).energy_lost
        assert exact < lost < exact + most


def test_bases_are_fitted_to_what_was_coded() -> None:
    """Once rounded, coefficients have another best basis, in which 4 bits lose no more than in the one given."""
    table, (basis,) = random_table(500, 12) * torch.logspace(0, -1, 12), random_bases(12, (12,))
    layer = quantized_subspaces(table, torch.zeros(500, dtype=torch.int64), [basis], bits=4)
    codes = layer.read(0, slice(0, 500))
    best = torch.linalg.lstsq(codes, table).solution
    torch.testing.assert_close(layer.basis(0), best, atol=0.6 * float(layer.scales.max()), rtol=0)


def test_heavy_rows_decide_the_steps() -> None:
    """Ten rows that weigh a million times as much as the others are stored with less than half of the loss."""
    table = random_table(400, 8)
    table[:10] *= 0.05
    weights = torch.ones(400)
    weights[:10] = 1e6
    lost = []
    for given in (None, weights):
        layer = quantized_subspaces(
            table, torch.zeros(400, dtype=torch.int64), [torch.eye(8)], bits=4, row_weights=given
        )
        lost.append(float((table - layer.to_dense())[:10].square().sum()))
    assert lost[1] < 0.5 * lost[0]


@pytest.mark.parametrize("coefficients", ["int8", "int4"])
def test_a_budget_of_bytes_is_used(coefficients: str) -> None:
    """Prices are those of the integers, so less than one direction of all rows is left over."""
    table = planted_table(900, 32, 4, 12, noise=0.2)[0]
    budget = table.nbytes // 8
    result = foldflat.compress(
        table, foldflat.EmbeddingRecipe(budget_bytes=budget, n_subspaces=3, coefficients=coefficients)
    )
    assert budget - 900 * int(coefficients[-1]) // 8 - 36 < result.report["size_bytes_after"] <= budget


def test_fewer_bytes_than_float32_coefficients_for_less_loss() -> None:
    """At an eighth of the table integers leave room for directions that float32 has to leave out."""
    table = planted_table(600, 32, 3, 8, noise=0.1)[0]
    lost = {}
    for coefficients in ("float32", "int8", "int4"):
        recipe = foldflat.EmbeddingRecipe(budget_bytes=table.nbytes // 6, n_subspaces=3, coefficients=coefficients)
        lost[coefficients] = foldflat.compress(table, recipe).report["tables"][0]["energy_lost"]
    assert lost["int8"] < 0.5 * lost["float32"]
    assert lost["int4"] < lost["float32"]


def test_a_saved_layer_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Through a folder: the same stored tensors, the same rows, the same bytes."""
    table = planted_table(300, 16, 3, 4)[0]
    recipe = foldflat.EmbeddingRecipe(keep_ratio=0.5, coefficients="int4")
    model = torch.nn.Sequential(torch.nn.Embedding.from_pretrained(table, padding_idx=0))
    result = foldflat.compress(model, recipe)
    foldflat.save(result, tmp_path / "saved")
    fresh = torch.nn.Sequential(torch.nn.Embedding(300, 16, padding_idx=0))
    loaded = foldflat.load(tmp_path / "saved", model=fresh)
    stored, again = result.model.state_dict(), loaded.state_dict()
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[name], again[name]) for name in stored)
    assert torch.equal(result.model(torch.arange(300)), loaded(torch.arange(300)))


def test_more_subspaces_than_a_byte_tells_apart_are_refused() -> None:
    """One code of 256 is kept for a padding row."""
    with pytest.raises(RecipeError, match='256, but with `coefficients` "int4" at most 255 can be told apart; hint'):
        foldflat.EmbeddingRecipe(n_subspaces=256, coefficients="int4")
