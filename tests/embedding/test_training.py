"""Quantised layers in training form: gradients against plain autograd, and what is stored afterwards."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.embedding.layers import MIXED_BYTES, layer_of, random_table
from torch import Tensor, nn

import foldflat
from foldflat.embedding.build import head_of
from foldflat.embedding.masters import bounded
from foldflat.embedding.mixed import MixedEmbedding
from foldflat.embedding.mixing import choose_scheme, coded
from foldflat.embedding.packed import PackedEmbedding
from foldflat.embedding.quantized import STEP, QuantizedSubspaceEmbedding
from foldflat.embedding.training import load_masters, masters_of, packed_tables, training_tables
from foldflat.errors import DataError, PlanMismatchError, RecipeError

N, D = 60, 12
PADDING = 7
FORMS = [
    ("mixed", False),
    ("mixed-int8", False),
    ("subspaces-int8", False),
    ("subspaces-int8", True),
    ("subspaces-int4", False),
    ("subspaces-int4", True),
]

Leaves = dict[str, Tensor]


def packed(kind: str) -> PackedEmbedding:
    """Return a layer with a padding row."""
    if kind.startswith("mixed"):
        weights = torch.logspace(0, 6, N, base=2, dtype=torch.float64)
        scheme = choose_scheme(random_table(N, D), weights, MIXED_BYTES, padding_idx=PADDING)
        basis_dtype = torch.int8 if kind.endswith("int8") else torch.float16
        return coded(random_table(N, D), replace(scheme, basis_dtype=basis_dtype), PADDING)
    layer = layer_of(kind, n=N, d=D, padding_idx=PADDING)
    assert isinstance(layer, PackedEmbedding)
    return layer


def stored(layer: nn.Module) -> dict[str, Tensor]:
    """Return copies of everything that is saved."""
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Compare bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def _dense_mixed(layer: MixedEmbedding) -> tuple[Tensor, Leaves]:
    """Return the table (n, d) from leaves with a gradient: each row its codes times scales times directions."""
    bases, scales = layer.bases.float(), layer.scales.float()
    if layer.bases.dtype == torch.int8:
        lengths = bases.norm(dim=1)
        starts = [sum(layer.ranks[: layout.basis]) for layout in layer.layouts]
        coded_by = [
            start + i for start, layout in zip(starts, layer.layouts, strict=True) for i in layout.schedule.coded
        ]
        bases, scales = bases / lengths[:, None], scales * lengths[coded_by] / 128
    leaves = {"bases": bases.requires_grad_(), "scales": scales.requires_grad_()}
    rows: list[Tensor] = []
    first_scale = torch.tensor([0] + [len(layout.schedule.coded) for layout in layer.layouts]).cumsum(0).tolist()
    for row in range(N):
        i = int(layer.assignment[row])
        if i == len(layer.layouts):
            rows.append(layer.fixed[0])
            continue
        layout = layer.layouts[i]
        codes = layer.read(i, slice(0, layout.size))[int((layer.assignment[:row] == i).sum())]
        first = sum(layer.ranks[: layout.basis])
        total = torch.zeros(D)
        for place, direction in enumerate(layout.schedule.coded):
            scale = leaves["scales"][first_scale[i] + place]
            total = total + codes[place] * scale * leaves["bases"][first + direction]
        rows.append(total)
    return torch.stack(rows), leaves


def _dense_integers(layer: QuantizedSubspaceEmbedding) -> tuple[Tensor, Leaves]:
    """Return the table from unit basis vectors and coefficients of which a step is STEP, nothing rounded."""
    vectors = layer.bases.float() * layer.scales
    steps = vectors.norm(dim=1)
    leaves = {"bases": (vectors / steps[:, None]).requires_grad_()}
    firsts = [0 if group == 0 else 5 for group in layer.groups]
    for i, size in enumerate(layer.sizes):
        leaves[f"coefficients_{i}"] = (layer.read(i, slice(0, size)) * STEP).requires_grad_()
    rows: list[Tensor] = []
    for row in range(N):
        i = int(layer.assignment[row])
        if i == len(layer.ranks):
            rows.append(layer.fixed[0])
            continue
        place, own = int((layer.assignment[:row] == i).sum()), slice(firsts[i], firsts[i] + layer.ranks[i])
        rows.append(leaves[f"coefficients_{i}"][place] / STEP * steps[own] @ leaves["bases"][own])
    return torch.stack(rows), leaves


def dense(layer: PackedEmbedding) -> tuple[Tensor, Leaves]:
    """Return the table as autograd sees it where nothing is rounded, and its leaves by name."""
    if isinstance(layer, MixedEmbedding):
        return _dense_mixed(layer)
    assert isinstance(layer, QuantizedSubspaceEmbedding)
    return _dense_integers(layer)


def _rows(layer: PackedEmbedding, table: Tensor | None) -> Tensor:
    ids = torch.tensor([[3, PADDING, 3, 59], [0, 11, 12, 40]])
    return layer(ids) if table is None else table[ids]


def _logits(layer: PackedEmbedding, table: Tensor | None) -> Tensor:
    hidden = torch.randn(2, 3, D, generator=torch.Generator().manual_seed(1))
    return head_of(layer)(hidden) if table is None else hidden @ table.T


@pytest.mark.parametrize("use", [_rows, _logits])
@pytest.mark.parametrize(("kind", "coefficients"), FORMS)
def test_gradients_are_those_of_a_dense_table(
    kind: str, coefficients: bool, use: Callable[[PackedEmbedding, Tensor | None], Tensor]
) -> None:
    """Of rows, some twice, and of a tied head's logits: roundings pass gradients on as if there were none."""
    layer = packed(kind)
    table, leaves = dense(layer)
    layer.unfreeze(coefficients=coefficients)
    target = torch.randn(use(layer, table).shape, generator=torch.Generator().manual_seed(2))
    (use(layer, table) - target).square().sum().backward()
    (use(layer, None) - target).square().sum().backward()
    assert layer.masters is not None
    found = {name: parameter.grad for name, parameter in layer.masters.named_parameters()}
    assert set(found) == {name for name in leaves if coefficients or "coefficients" not in name}
    for name, gradient in found.items():
        assert gradient is not None
        assert gradient.any()
        torch.testing.assert_close(gradient, leaves[name].grad, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
    assert not layer.fixed.requires_grad


@pytest.mark.parametrize(("kind", "coefficients"), FORMS)
def test_without_a_step_no_bit_changes(kind: str, coefficients: bool) -> None:
    """Rows, logits and everything stored are the same before, in and after training form, also in half precision."""
    layer = packed(kind).to(torch.bfloat16)
    before, hidden = stored(layer), torch.eye(D, dtype=torch.bfloat16)
    rows, logits, size = layer.to_dense(), layer.logits(hidden), layer.size_bytes
    layer.unfreeze(coefficients=coefficients)
    assert layer.trained == (
        ("bases", "scales") if kind.startswith("mixed") else ("bases", "coefficients")[: 1 + coefficients]
    )
    assert all(parameter.dtype == torch.float32 for parameter in layer.parameters())
    assert torch.equal(layer(torch.arange(N)), rows)
    assert torch.equal(layer.logits(hidden), logits)
    assert layer.size_bytes == size
    assert same(stored(layer), before)
    assert not list(layer.freeze().parameters())
    assert same(stored(layer), before)


@pytest.mark.parametrize(("kind", "coefficients"), FORMS)
def test_training_lowers_the_loss_of_what_is_stored(kind: str, coefficients: bool, tmp_path: Path) -> None:
    """After 30 steps rows are nearer to others; frozen and reloaded they are the same, in as many bytes as before."""
    layer = packed(kind)
    size, padding, codes = layer.size_bytes, layer(torch.tensor(PADDING)), layer.codes.clone()
    target = layer.to_dense() @ torch.linalg.qr(torch.eye(D) + 0.2 * torch.ones(D, D).tril(-1)).Q
    start = (layer.to_dense() - target).square().mean()
    layer.unfreeze(coefficients=coefficients)
    groups = [{"params": [part], "lr": 3e-4 if "coef" in name else 0.03} for name, part in layer.named_parameters()]
    optimiser = torch.optim.Adam(groups)
    for _ in range(30):
        optimiser.zero_grad()
        (layer(torch.arange(N)) - target).square().mean().backward()
        optimiser.step()
    trained = layer.to_dense()
    assert (trained - target).square().mean() < 0.7 * start
    saved = stored(layer)
    layer.freeze()
    assert torch.equal(layer.to_dense(), trained)
    assert same(stored(layer), saved)
    assert torch.equal(layer.codes, codes) != coefficients
    assert layer.size_bytes == size
    assert torch.equal(layer(torch.tensor(PADDING)), padding)
    foldflat.save(layer, tmp_path / "saved")
    assert torch.equal(foldflat.load(tmp_path / "saved")(torch.arange(N)), trained)


@pytest.mark.parametrize("kind", ["mixed", "subspaces-int4"])
def test_a_layer_in_training_form_is_saved_as_frozen_and_can_be_filled(kind: str, tmp_path: Path) -> None:
    """The folder loads as any; loading one into the training form starts from what it holds."""
    layer = packed(kind).unfreeze()
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.1)
    foldflat.save(layer, tmp_path / "saved")
    rows = layer.to_dense()
    assert torch.equal(foldflat.load(tmp_path / "saved")(torch.arange(N)), rows)
    assert not torch.equal(other.to_dense(), rows)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.to_dense(), rows)
    assert torch.equal(other.freeze().to_dense(), rows)


@pytest.mark.parametrize("kind", ["mixed", "subspaces-int8"])
def test_kept_rows_are_forgotten_when_what_is_trained_changes(kind: str) -> None:
    """A cache of rows is used without gradients only, and gives the rows of after a step, and of after freezing."""
    layer = packed(kind).cache_rows()
    ids = torch.tensor([1, 2, PADDING])
    before = layer(ids)
    layer.unfreeze()
    assert layer(ids).requires_grad
    with torch.no_grad():
        assert torch.equal(layer(ids), before)
        next(layer.parameters()).mul_(2)
        after = layer(ids)
    torch.testing.assert_close(after, layer.to_dense()[ids])
    assert not torch.equal(after[:2], before[:2])
    assert torch.equal(layer.freeze()(ids), after)


def test_a_coefficient_beyond_the_range_can_only_come_back() -> None:
    """Outside of the integers a gradient that leads further out is none; one that leads back stays."""
    values = torch.tensor([-9.0, -9.0, 0.0, 8.0, 8.0], requires_grad=True)
    bounded(values, -8, 7).backward(torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]))
    assert values.grad is not None
    assert values.grad.tolist() == [0, -1, 1, 1, 0]


def test_a_block_of_training_freezes_what_it_unfroze() -> None:
    """Also where it raises, and then nothing of the table has changed; what was in training form before stays so."""
    model = nn.Sequential(packed("mixed"), packed("subspaces-int4"), nn.Linear(D, 2))
    before = stored(model)

    def interrupted() -> None:
        with training_tables(model, "all"):
            nn.init.zeros_(next(model[0].parameters()))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert same(stored(model), before)
    with training_tables(model, "all") as trained:
        assert trained == {"0": ("bases", "scales"), "1": ("bases", "coefficients")}
    with training_tables(model, "none") as trained:
        assert trained == {}
    packed_tables(model)["1"].unfreeze()
    with training_tables(model, "bases") as trained:
        assert trained == {"0": ("bases", "scales"), "1": ("bases",)}
    assert [table.trained for table in packed_tables(model).values()] == [(), ("bases",)]


def test_what_was_trained_is_carried_over_exactly() -> None:
    """More so than by a state dict, which is rounded; into tables that train something else it does not go."""
    one, other = (nn.Sequential(packed("mixed").unfreeze()) for _ in range(2))
    with torch.no_grad():
        next(one.parameters()).mul_(1 + 2**-14)
    exact = masters_of(one)
    other.load_state_dict(one.state_dict())
    assert not same(masters_of(other), exact)
    load_masters(other, exact)
    assert same(masters_of(other), exact)
    with pytest.raises(PlanMismatchError, match=r"`0.bases` of a table is trained there, and not or otherwise now"):
        load_masters(nn.Sequential(packed("mixed")), exact)


def test_what_cannot_be_trained_or_stored_is_refused() -> None:
    """Trellis codes, other coefficients half way, numbers that are none."""
    with pytest.raises(RecipeError, match="are codes that cannot be trained"):
        packed("mixed").unfreeze(coefficients=True)
    layer = packed("subspaces-int8").unfreeze()
    with pytest.raises(RecipeError, match=r"`coefficients` is True, but this layer trains \('bases',\); hint: freeze"):
        layer.unfreeze(coefficients=True)
    nn.init.constant_(next(layer.parameters()), float("nan"))
    with pytest.raises(DataError, match="NaN or infinity in `bases` of a compressed table"):
        layer.freeze()


def test_a_block_that_raises_leaves_tables_as_they_were_before() -> None:
    """Also where a checkpoint stored what was trained meanwhile."""
    layer = packed("mixed")
    model, before = nn.Sequential(layer), stored(layer)

    def interrupted() -> None:
        with training_tables(model):
            _grow(layer)
            model.state_dict()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert same(stored(layer), before)
    assert layer.masters is None


def test_numbers_that_cannot_be_stored_leave_every_table_as_it_was() -> None:
    """Not the first ones stored, and the others in training form."""
    layers = [packed("mixed") for _ in range(3)]
    before = stored(layers[0])

    def trained() -> None:
        with training_tables(nn.Sequential(*layers)):
            _grow(layers[0])
            _grow(layers[1], by=torch.nan)

    with pytest.raises(DataError, match="training left NaN"):
        trained()
    assert all(layer.masters is None and same(stored(layer), before) for layer in layers)


@torch.no_grad()
def _grow(layer: PackedEmbedding, *, by: float = 1.5) -> None:
    for parameter in layer.parameters():
        parameter.mul_(by)
