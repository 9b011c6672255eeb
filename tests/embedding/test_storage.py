"""Check the integer formats by hand, against their bounds, and byte for byte."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.embedding.layers import KINDS, layer_of, random_table
from torch import Tensor

from foldflat.embedding.baselines import QuantizedEmbedding
from foldflat.embedding.storage import FORMATS, Int8Rows, IntegerGroups, integers, pack, packed_bytes, unpack

SHAPES = st.tuples(st.integers(1, 6), st.sampled_from([1, 5, 31, 32, 33, 64, 70]))
SCALES = st.sampled_from([1e-3, 1.0, 30.0])


def _table(shape: tuple[int, int], scale: float, seed: int) -> Tensor:
    table = random_table(*shape, seed=seed) * scale
    table[seed % shape[0]] = 0
    return table


def test_int8_by_hand() -> None:
    """The largest magnitude, 254, becomes 127 at scale 2; halves round to even."""
    codes, scales = Int8Rows().encode(torch.tensor([[254.0, -254.0, 2.9, -3.1, 5.0, 0.0]]))
    assert scales.tolist() == [[2.0]]
    assert codes.tolist() == [[127, -127, 1, -2, 2, 0]]
    assert Int8Rows().decode(codes, scales, 6).tolist() == [[254.0, -254.0, 2.0, -4.0, 4.0, 0.0]]


def test_int4_by_hand() -> None:
    """Whole numbers of which the largest is 8 fit exactly at scale -1, which puts it on the longer side, at -8.

    Codes are stored with 8 added, the first of two numbers in the lower half of a byte.
    """
    row = torch.zeros(1, 33)
    row[0, :4] = torch.tensor([8.0, 3.0, -5.0, 7.0])
    codes, scales = IntegerGroups(4, 32).encode(row)
    assert scales.tolist() == [[-1.0, 0.0]]
    assert codes[0, :3].tolist() == [0x50, 0x1D, 0x88]
    assert set(codes[0, 2:].tolist()) == {0x88}
    assert IntegerGroups(4, 32).decode(codes, scales, 33)[0].tolist() == [8.0, 3.0, -5.0, 7.0] + 29 * [0.0]


@given(m=st.integers(0, 40), bits=st.integers(1, 8), seed=st.integers(0, 9))
def test_packed_numbers_come_back_in_as_few_bytes_as_hold_them(m: int, bits: int, seed: int) -> None:
    """As one number in base 2^bits, the first the lowest: m bits / 8 bytes, rounded up."""
    codes = torch.randint(0, 2**bits, (2, m), generator=torch.Generator().manual_seed(seed))
    packed = pack(codes, bits)
    assert packed.shape == (2, packed_bytes(m, bits))
    for numbers, stored in zip(codes.tolist(), packed.tolist(), strict=True):
        assert int.from_bytes(bytes(stored), "little") == sum(code << (bits * i) for i, code in enumerate(numbers))
    whole = pack(torch.nn.functional.pad(codes, (0, -m % 8)), bits)
    assert torch.equal(unpack(whole, bits)[:, :m].long(), codes)


@pytest.mark.parametrize("shape", [(3, 16), (2, 0), (0, 8), (8,)])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_integers_are_the_codes_less_half_of_their_range(bits: int, shape: tuple[int, ...]) -> None:
    """However they are read, in the shape of the codes; also of no rows, and of rows of none."""
    codes = torch.randint(2**bits, shape, generator=torch.Generator().manual_seed(bits))
    found = integers(pack(codes, bits), bits)
    assert found.dtype == torch.float32
    assert torch.equal(found, codes.float() - 2 ** (bits - 1))


@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_integer_groups_take_their_bits_and_lose_half_a_step(bits: int, group: int) -> None:
    """Bits a number and 16 a group; with a scale that clips nothing, no number is off by more than half of it."""
    table = random_table(5, 2 * group)
    plain, best = IntegerGroups(bits, group, candidates=1, smallest=1.0), IntegerGroups(bits, group)
    codes, scales = plain.encode(table)
    assert codes.nbytes + scales.nbytes == 5 * (2 * group * bits + 2 * 16) // 8
    off = (table - plain.decode(codes, scales, 2 * group)).abs().view(5, 2, group)
    # the shorter side of the range ends a step before the longer
    assert (off <= 1.001 * scales.float().abs()[:, :, None]).all()
    rounded = best.decode(*best.encode(table), 2 * group)
    assert (rounded - table).square().sum() <= off.square().sum()


@given(shape=SHAPES, scale=SCALES, seed=st.integers(0, 99))
def test_int8_is_within_half_a_step(shape: tuple[int, int], scale: float, seed: int) -> None:
    """|x - decoded| <= scale / 2 for every number, and a row of zeros stays zero."""
    table = _table(shape, scale, seed)
    codes, scales = Int8Rows().encode(table)
    decoded = Int8Rows().decode(codes, scales, shape[1])
    assert ((table - decoded).abs() <= scales * 0.50001).all()
    assert not decoded[seed % shape[0]].any()


@given(shape=SHAPES, scale=SCALES, seed=st.integers(0, 99))
def test_int4_is_at_least_as_good_as_the_plain_scales(shape: tuple[int, int], scale: float, seed: int) -> None:
    """Least squared error over several scales, so none of those that other libraries use is better in any group.

    The plain scales put the largest magnitude at 8 or at 7; at 7 nothing is clipped, so the error is also at most
    that of rounding every number by half a step. Zeros stay zero.
    """
    table = _table(shape, scale, seed)
    n, d = shape
    codes, scales = IntegerGroups(4, 32).encode(table)
    decoded = IntegerGroups(4, 32).decode(codes, scales, d)
    assert decoded.shape == (n, d)
    for row in range(n):
        for start in range(0, d, 32):
            values = table[row, start : start + 32]
            lost = float((values - decoded[row, start : start + 32]).square().sum())
            largest = float(values.abs().max())
            signed = float(values[values.abs().argmax()])
            assert lost <= 1.01 * _error_at(values, -signed / 8) + 1e-12
            assert lost <= 1.05 * len(values) * (largest / 7 / 2) ** 2 + 1e-12
    assert not decoded[seed % n].any()


def _error_at(values: Tensor, scale: float) -> float:
    stored = float(torch.tensor(scale).half())
    if stored == 0:
        return float(values.square().sum())
    rounded = [max(-8, min(7, round(value / stored))) * stored for value in values.tolist()]
    return float((values - torch.tensor(rounded)).square().sum())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_come_back_in_the_tables_type(name: str, dtype: torch.dtype) -> None:
    """Decoding is in float32 whatever the table was, and what is returned has the table's type."""
    table = random_table(9, 40)
    exact = QuantizedEmbedding.from_table(table.to(dtype).float(), name).to_dense()
    layer = QuantizedEmbedding.from_table(table.to(dtype), name)
    assert layer(torch.arange(9)).dtype == dtype
    assert torch.equal(layer.to_dense(), exact.to(dtype))


@pytest.mark.parametrize("name", FORMATS)
def test_scales_keep_their_type_when_a_model_changes_its_own(name: str) -> None:
    """`.half()`, `.to(bfloat16)` and `.float()` are about rows: small rows survive and the stored bytes stay."""
    layer = QuantizedEmbedding.from_table(random_table(9, 40) * 1e-4, name)
    size, exact = layer.size_bytes, layer.to_dense()
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        layer.to(dtype)
        assert layer.size_bytes == size
        assert torch.equal(layer.to_dense(), exact.to(dtype))


@pytest.mark.parametrize(("n", "d"), [(7, 31), (5, 32), (3, 70)])
def test_bytes_by_hand(n: int, d: int) -> None:
    """int8: d codes and 4 bytes of scale a row. int4: 16 bytes of codes and 2 of scale a group of 32."""
    groups = {31: 1, 32: 1, 70: 3}[d]
    assert QuantizedEmbedding.from_table(random_table(n, d), "int8").size_bytes == n * (d + 4)
    assert QuantizedEmbedding.from_table(random_table(n, d), "int4").size_bytes == n * groups * 18


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding_idx", [None, 4])
def test_reported_bytes_are_those_of_the_file(kind: str, padding_idx: int | None, tmp_path: Path) -> None:
    """Safetensors stores an 8-byte length, a header of that length, and exactly `size_bytes` of numbers."""
    layer = layer_of(kind, padding_idx=padding_idx)
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    content = (tmp_path / "layer.safetensors").read_bytes()
    assert len(content) - 8 - int.from_bytes(content[:8], "little") == layer.size_bytes
