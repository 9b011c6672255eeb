"""Check the subspace embedding against slow and obvious versions of itself."""

import copy
import json

import pytest
import torch
from tests.embedding.layers import (
    KINDS,
    dense_composition,
    gradients,
    layer_of,
    random_bases,
    random_labels,
    random_table,
    slow_row,
    subspace_layer,
)
from torch.nn import functional

from foldflat.embedding.module import SubspaceEmbedding
from foldflat.errors import DenseWeightError

SHAPES = {"scalar": (), "row": (7,), "batch": (3, 5), "deep": (2, 3, 4), "empty": (0,), "empty batch": (2, 0)}


@pytest.mark.parametrize("padding_idx", [None, 4])
def test_full_rank_gives_the_table_back(padding_idx: int | None) -> None:
    """Subspaces of rank d lose nothing but rounding."""
    layer, table = subspace_layer(50, 8, (8, 8, 8), padding_idx=padding_idx)
    torch.testing.assert_close(layer.to_dense(), table)
    torch.testing.assert_close(layer(torch.arange(50)), table)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("padding_idx", [None, 4])
def test_rows_are_those_of_a_loop_over_ids(shape: tuple[int, ...], padding_idx: int | None) -> None:
    """Ids of any shape, in any order, repeated, with and without padding, give the rows that a loop gives."""
    layer, _ = subspace_layer(padding_idx=padding_idx)
    ids = torch.randint(0, 12, shape, generator=torch.Generator().manual_seed(3))  # few ids, so many repeat
    rows = layer(ids)
    expected = [slow_row(layer, int(row)) for row in ids.reshape(-1)]
    assert rows.shape == (*shape, 12)
    if expected:
        torch.testing.assert_close(rows.reshape(-1, 12), torch.stack(expected))
    torch.testing.assert_close(rows, layer.to_dense()[ids])


def test_every_row_is_projected_on_the_subspace_it_was_assigned_to() -> None:
    """What is lost of a row is orthogonal to its own basis, to no other one in general."""
    table, labels, bases = random_table(60, 12), random_labels(60, 3), random_bases(12, (3, 5, 2))
    layer = SubspaceEmbedding.from_table(table, labels, bases)
    for row, label in enumerate(labels.tolist()):
        projected = bases[label].T @ (bases[label] @ table[row].double())
        torch.testing.assert_close(layer.to_dense()[row].double(), projected, atol=1e-5, rtol=0)


def test_a_subspace_without_rows_is_dropped() -> None:
    """Label 1 is never used, nor is label 2 but by the padding row: one subspace is stored."""
    table = random_table(20, 6)
    labels = torch.zeros(20, dtype=torch.int64)
    labels[7] = 2
    layer = SubspaceEmbedding.from_table(table, labels, random_bases(6, (6, 2, 2)), padding_idx=7)
    assert (layer.sizes, layer.ranks) == ([19], [6])
    torch.testing.assert_close(layer.to_dense(), table)


def test_the_padding_row_is_exact_and_gets_no_gradient() -> None:
    """It is the table's row bit for bit, counted from the end as well, and looking it up changes no gradient."""
    layer, table = subspace_layer(padding_idx=-1)
    assert layer.padding_idx == 59
    assert torch.equal(layer(torch.tensor([59])), table[59:])
    layer(torch.tensor([3, 8])).square().sum().backward()
    without = gradients(layer)
    layer(torch.tensor([59, 3, 59, 8])).square().sum().backward()
    with_padding = gradients(layer)
    assert all(torch.equal(without[name], with_padding[name]) for name in without)
    assert "fixed" not in without


@pytest.mark.parametrize("padding_idx", [None, 4])
def test_gradients_are_those_of_the_dense_composition(padding_idx: int | None) -> None:
    """Autograd through the look-up and through a table built from the same parameters agree, repeated ids included."""
    layer, _ = subspace_layer(24, 6, (2, 3), padding_idx=padding_idx, dtype=torch.float64)
    ids = torch.randint(0, 24, (4, 9), generator=torch.Generator().manual_seed(0))
    weights = random_table(4 * 9, 6, seed=9, dtype=torch.float64).view(4, 9, 6)
    (layer(ids) * weights).sum().backward()
    found = gradients(layer)
    (functional.embedding(ids, dense_composition(layer)) * weights).sum().backward()
    expected = gradients(layer)
    assert any(gradient.any() for gradient in expected.values())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("ids", [[], [4], [4, 4]])
def test_a_batch_without_stored_rows_still_takes_part_in_training(ids: list[int]) -> None:
    """No ids, or the padding row alone: as with nn.Embedding, gradients are zero, not an error."""
    layer, _ = subspace_layer(padding_idx=4)
    layer(torch.tensor(ids, dtype=torch.int64)).sum().backward()
    assert all(not gradient.any() for gradient in gradients(layer).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close_and_finite(dtype: torch.dtype) -> None:
    """`.half()` and `.to(bfloat16)` give rows, tables and gradients in that type, as exact as the type allows."""
    layer, _ = subspace_layer(padding_idx=4)
    exact = layer.to_dense()
    layer.to(dtype)
    rows = layer(torch.arange(60))
    assert rows.dtype == layer.to_dense().dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps * exact.abs().max()
    assert (rows.float() - exact).abs().max() < tolerance
    assert torch.equal(rows[4], exact[4].to(dtype))
    (rows * 8).sum().backward()
    assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in gradients(layer).values())


def test_factors_may_be_stored_in_another_type_than_the_rows() -> None:
    """Factors in bfloat16: half the bytes, rows in float32 and as exact as the factors, the same after a reload."""
    layer, _ = subspace_layer(factor_dtype=torch.bfloat16)
    exact, _ = subspace_layer()
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}
    assert layer(torch.arange(3)).dtype == torch.float32
    assert (layer.to_dense() - exact.to_dense()).norm() / exact.to_dense().norm() < 2 * torch.finfo(torch.bfloat16).eps
    assert layer.parameters_stored == exact.parameters_stored
    assert exact.size_bytes - layer.size_bytes == 2 * exact.parameters_stored
    fresh = SubspaceEmbedding.from_spec(layer.spec(), dtype=torch.float32, device=None)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh.to_dense(), layer.to_dense())


def test_coefficients_are_taken_in_the_basis_as_it_is_stored() -> None:
    """A basis rounded to bfloat16 is not the one that was given; coefficients computed in it lose less."""
    table, labels, (basis,) = random_table(200, 12), torch.zeros(200, dtype=torch.int64), random_bases(12, (11,))
    layer = SubspaceEmbedding.from_table(table, labels, [basis], factor_dtype=torch.bfloat16)
    rounded = basis.to(torch.bfloat16).float()
    torch.testing.assert_close(layer.bases[0].float(), rounded, atol=0, rtol=0)
    torch.testing.assert_close(layer.coefficients[0].float(), (table @ rounded.T).to(torch.bfloat16).float())


@pytest.mark.parametrize("start", ["empty", "other rows"])
def test_a_state_dict_restores_a_layer(start: str) -> None:
    """Into an empty layer or one with another partition: what follows from the stored tensors follows."""
    layer, _ = subspace_layer(padding_idx=4)
    spec = json.loads(json.dumps(layer.spec()))
    fresh = SubspaceEmbedding.from_spec(spec, dtype=torch.float32, device=None)
    if start == "other rows":
        fresh.load_state_dict({**layer.state_dict(), "assignment": layer.assignment.flip(0)})
    keys = fresh.load_state_dict(layer.state_dict())
    assert not keys.missing_keys
    assert not keys.unexpected_keys
    ids = torch.arange(60).flip(0)
    assert torch.equal(fresh(ids), layer(ids))
    assert torch.equal(fresh.to_dense(), layer.to_dense())


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_made_on_the_meta_device_is_filled_by_assigning(kind: str) -> None:
    """All of its tensors are there at first, and none afterwards: also that which holds the type of the rows."""
    layer = layer_of(kind, padding_idx=4)
    empty = type(layer).from_spec(layer.spec(), dtype=torch.float32, device="meta")
    assert {tensor.device.type for tensor in (*empty.parameters(), *empty.buffers())} == {"meta"}
    empty.load_state_dict(layer.state_dict(), assign=True)
    assert {tensor.device.type for tensor in (*empty.parameters(), *empty.buffers())} == {"cpu"}
    assert torch.equal(empty.to_dense(), layer.to_dense())


@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_copy_shares_nothing(kind: str) -> None:
    """Changing the copy leaves the layer as it was."""
    layer = layer_of(kind)
    before = layer.to_dense()
    twin = copy.deepcopy(layer)
    assert torch.equal(twin.to_dense(), before)
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.zero_()
    assert torch.equal(layer.to_dense(), before)
    assert not twin.to_dense().equal(before)


@pytest.mark.parametrize(("k", "dtype"), [(255, torch.uint8), (256, torch.int16)])
def test_many_subspaces_need_wider_codes(k: int, dtype: torch.dtype) -> None:
    """255 subspaces and the padding row's own code fit in a byte, 256 do not; every row is found in both."""
    layer, _ = subspace_layer(600, 4, [1] * k, padding_idx=0)
    assert layer.assignment.dtype == dtype
    torch.testing.assert_close(layer(torch.arange(600)), dense_composition(layer))


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_no_dense_weight_to_read(kind: str) -> None:
    """Reading it is an error that names the way out; code that asks first gets "no"; other names stay ordinary."""
    layer = layer_of(kind)
    with pytest.raises(DenseWeightError, match=r"stores no dense `weight`(.|\n)*hint: `to_dense\(\)`"):
        _ = layer.weight
    assert not hasattr(layer, "weight")
    assert getattr(layer, "weight", None) is None
    with pytest.raises(AttributeError, match="has no attribute 'wait'"):
        _ = layer.wait


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [60, -1])
def test_an_id_outside_the_table_is_an_error(kind: str, row: int) -> None:
    """As with nn.Embedding, on both sides."""
    with pytest.raises(IndexError):
        layer_of(kind)(torch.tensor([0, row]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_embedding_of_the_same_rows(kind: str) -> None:
    """`to_embedding` looks up what the layer looks up and keeps the padding index and what is trained."""
    layer = layer_of(kind, padding_idx=4)
    plain = layer.to_embedding()
    ids = torch.tensor([[0, 4, 59], [1, 1, 2]])
    torch.testing.assert_close(plain(ids), layer(ids))
    assert plain.padding_idx == 4
    assert plain.weight.requires_grad is (kind == "subspaces")
