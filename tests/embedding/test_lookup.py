"""Check the look-up where it is not called by Python directly: compiled, exported, traced, under autocast."""

import pytest
import torch
from tests.embedding.layers import KINDS, gradients, layer_of, random_table, subspace_layer
from torch import Tensor

from foldflat.embedding import lookup
from foldflat.embedding.module import SubspaceEmbedding


def _lookup_and_gradients(call: torch.nn.Module, layer: SubspaceEmbedding, ids: Tensor) -> dict[str, Tensor]:
    rows = call(ids)
    (rows * random_table(len(ids), rows.shape[1], seed=5)).sum().backward()
    return {"rows": rows.detach(), **gradients(layer)}


# inductor's own imports use it
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_layer_computes_the_same(backend: str) -> None:
    """One graph without breaks, for any number of ids; rows and gradients equal those of the layer itself."""
    layer, _ = subspace_layer(padding_idx=4)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    for length in (9, 30, 1):
        ids = torch.randint(0, 60, (length,), generator=torch.Generator().manual_seed(length))
        expected = _lookup_and_gradients(layer, layer, ids)
        torch.testing.assert_close(_lookup_and_gradients(compiled, layer, ids), expected)
        assert any(expected[name].any() for name in expected if name != "rows")


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_compiled(kind: str, backend: str) -> None:
    """Rows and logits are those of the layer itself; where a graph breaks is torch's affair."""
    layer = layer_of(kind, padding_idx=4)
    torch.compiler.reset()
    rows, logits = (torch.compile(call, backend=backend) for call in (layer, layer.logits))
    for length in (9, 1):
        ids, hidden = torch.arange(length) * 6 % 60, random_table(length, 12, seed=length)
        torch.testing.assert_close(rows(ids), layer(ids))
        torch.testing.assert_close(logits(hidden), layer.logits(hidden))


def test_a_row_asked_for_twice_is_multiplied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 ids of 3 rows, three rows of coefficients are multiplied, and the rows come back in order."""
    layer, _ = subspace_layer()
    ids = torch.tensor([3, 17, 50]).repeat(14)[:40]
    expected, multiplied = layer.to_dense()[ids], []
    expand = lookup._expand

    def counted(coefficients: Tensor, basis: Tensor, dtype: torch.dtype) -> Tensor:
        multiplied.append(len(coefficients))
        return expand(coefficients, basis, dtype)

    monkeypatch.setattr(lookup, "_expand", counted)
    torch.testing.assert_close(layer(ids), expected)
    assert sum(multiplied) == 3


def test_a_compiled_layer_with_factors_of_another_type_computes_the_same() -> None:
    """Factors in bfloat16 are multiplied in float32 in the graph as well, and get gradients in their own type."""
    layer, _ = subspace_layer(factor_dtype=torch.bfloat16)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    ids = torch.arange(0, 60, 7)
    expected = _lookup_and_gradients(layer, layer, ids)
    assert expected["bases.0"].dtype == torch.bfloat16
    torch.testing.assert_close(_lookup_and_gradients(compiled, layer, ids), expected)


@pytest.mark.parametrize("padding_idx", [None, 4])
def test_an_exported_layer_computes_the_same(padding_idx: int | None) -> None:
    """The exported program takes batches of other sizes than the one it was made with."""
    layer, _ = subspace_layer(padding_idx=padding_idx)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (torch.arange(12).view(4, 3),), dynamic_shapes=({0: batch},))
    ids = torch.randint(0, 60, (9, 3), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program.module()(ids), layer(ids))


def test_the_operator_keeps_torchs_contract() -> None:
    """Schema, shapes, autograd registration and behaviour under AOT, as torch itself checks them."""
    coefficients = [random_table(4, 3).requires_grad_(), random_table(2, 1).requires_grad_()]
    bases = [random_table(3, 5).requires_grad_(), random_table(1, 5).requires_grad_()]
    subspace, position = torch.tensor([1, 0, 2, 0, 0]), torch.tensor([1, 3, 0, 0, 3], dtype=torch.int32)
    arguments = (subspace, position, coefficients, bases, random_table(1, 5))
    checked = torch.library.opcheck(torch.ops.foldflat.look_up.default, arguments)
    assert set(checked.values()) == {"SUCCESS"}


@pytest.mark.parametrize("compiled", [False, True])
def test_rows_do_not_depend_on_an_autocast_region(compiled: bool) -> None:
    """nn.Embedding's rows stay in the table's type under autocast; so do these, to the bit."""
    layer, _ = subspace_layer()
    torch.compiler.reset()
    call = torch.compile(layer, backend="eager", fullgraph=True) if compiled else layer
    ids = torch.arange(20)
    expected = layer(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = call(ids)
    assert rows.dtype == torch.float32
    assert torch.equal(rows, expected)
