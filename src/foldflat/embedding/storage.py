"""How numbers of a table are stored: one small class per format, rows decodable alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["FORMATS", "Int8Rows", "IntegerGroups", "RowFormat", "integers", "pack", "packed_bytes", "rounded", "unpack"]


_PAIRED_BITS = 4


class RowFormat(Protocol):
    """Encode rows of numbers to codes and scales, and back."""

    @property
    def name(self) -> str:
        """Return the name that recipes and files use."""

    def layout(self, n: int, d: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return shape and type of `codes` and `scales` of an (n, d) table."""

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and scales of rows (b, d)."""

    def decode(self, codes: Tensor, scales: Tensor, d: int) -> Tensor:
        """Return float32 rows (b, d)."""


@dataclass(frozen=True)
class Int8Rows:
    """Store each row as int8 with one float32 scale: d + 4 bytes a row."""

    name: str = "int8"

    def layout(self, n: int, d: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return codes (n, d) int8 and scales (n, 1) float32."""
        return {"codes": ((n, d), torch.int8), "scales": ((n, 1), torch.float32)}

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Round to the nearest of 255 levels between plus and minus the row's largest magnitude."""
        values = rows.float()
        scales = values.abs().amax(1, keepdim=True) / 127
        safe = torch.where(scales > 0, scales, torch.ones_like(scales))
        return (values / safe).round_().clamp_(-127, 127).to(torch.int8), scales

    def decode(self, codes: Tensor, scales: Tensor, d: int) -> Tensor:  # noqa: ARG002 (the protocol's signature)
        """Return codes x scale."""
        return codes.float() * scales.float()


@dataclass(frozen=True)
class IntegerGroups:
    """Store each group of consecutive numbers as integers of some bits with one float16 scale.

    With 4 bits in groups of 32 that is 4.5 bits a number. The scale of a group is the one of least squared error, of
    those that put the group's largest magnitude at `smallest` to all of the range's longer side.

    Attributes:
        bits: of an integer, 1 to 8.
        group: numbers that share a scale; their bits must fill whole bytes.
        candidates: scales to choose from.
        smallest: in (0, 1].
    """

    bits: int
    group: int
    candidates: int = 8
    smallest: float = 0.6875

    @property
    def name(self) -> str:
        """Return "int4" for 4 bits in groups of 32, else bits and group."""
        return "int4" if (self.bits, self.group) == (4, 32) else f"int{self.bits}-g{self.group}"

    def layout(self, n: int, d: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return codes (n, ceil(d / group) x group x bits / 8) uint8 and scales (n, ceil(d / group)) float16."""
        groups = -(-d // self.group)
        width = packed_bytes(groups * self.group, self.bits)
        return {"codes": ((n, width), torch.uint8), "scales": ((n, groups), torch.float16)}

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Round each group to -(2^bits / 2) .. 2^bits / 2 - 1 times its scale."""
        n, d = rows.shape
        groups, lowest = -(-d // self.group), 2 ** (self.bits - 1)
        values = functional.pad(rows.float(), (0, groups * self.group - d)).view(n, groups, self.group)
        extreme = values.gather(2, values.abs().argmax(2, keepdim=True))
        best_scale = torch.zeros_like(extreme)
        best_error = torch.full_like(extreme, torch.inf)
        # the sign puts the largest magnitude on the longer, negative side of the range
        for level in torch.linspace(self.smallest * lowest, lowest, self.candidates).tolist():
            scale = (-extreme / level).half().float()
            error = (rounded(values, scale, self.bits) * scale - values).square().sum(2, keepdim=True)
            better = error < best_error
            best_scale, best_error = (
                torch.where(better, scale, best_scale),
                torch.where(better, error, best_error),
            )
        codes = (rounded(values, best_scale, self.bits) + lowest).to(torch.uint8).view(n, groups * self.group)
        return pack(codes, self.bits), best_scale.squeeze(2).half()

    def decode(self, codes: Tensor, scales: Tensor, d: int) -> Tensor:
        """Unpack the integers and multiply them by their group's scale."""
        levels = integers(codes, self.bits).view(codes.shape[0], -1, self.group)
        values: Tensor = levels * scales.float()[:, :, None]
        return values.view(codes.shape[0], -1)[:, :d]


def integers(packed: Tensor, bits: int) -> Tensor:
    """Return (.., m) float32 integers of whole words of packed codes (.., b), which have half of their range added."""
    if bits != _PAIRED_BITS:
        plain: Tensor = unpack(packed, bits).float() - 2 ** (bits - 1)
        return plain
    # both numbers of a byte are read at once, as the eight bytes of an integer
    levels = torch.arange(-8, 8, dtype=torch.float32, device=packed.device)
    pairs = torch.stack([levels.repeat(16), levels.repeat_interleave(16)], 1).view(torch.int64).view(-1)
    read: Tensor = pairs.index_select(0, packed.reshape(-1).to(torch.int32)).view(torch.float32)
    return read.view(*packed.shape[:-1], 2 * packed.shape[-1])


def rounded(values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Return values / scale rounded to the integers of some bits; a scale of zero counts as one."""
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (values / safe).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def packed_bytes(numbers: int, bits: int) -> int:
    """Return the bytes that some numbers of `bits` bits take when packed."""
    return -(-numbers * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return codes (.., m) of 0 .. 2^bits - 1 as (.., ceil(m bits / 8)) uint8, the first in the lowest bits."""
    numbers, size = _word(bits)
    m = codes.shape[-1]
    words = functional.pad(codes.long(), (0, -m % numbers)).unflatten(-1, (-1, numbers))
    whole = (words << _shifts(numbers, bits, codes.device)).sum(-1, keepdim=True)
    packed: Tensor = ((whole >> _shifts(size, 8, codes.device)) & 255).to(torch.uint8)
    return packed.flatten(-2)[..., : packed_bytes(m, bits)]


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Return (.., m) uint8, at least the codes that `pack` was given; the bytes must be whole words of them."""
    numbers, size = _word(bits)
    words = packed.unflatten(-1, (-1, size))
    if size > 1:
        words = (words.long() << _shifts(size, 8, packed.device)).sum(-1, keepdim=True)
    shifts = _shifts(numbers, bits, packed.device).to(words.dtype)
    codes: Tensor = ((words >> shifts) & (2**bits - 1)).to(torch.uint8)
    return codes.flatten(-2)


def _word(bits: int) -> tuple[int, int]:
    """Return the numbers in the shortest run of them that fills whole bytes, and those bytes."""
    size = bits // math.gcd(bits, 8)
    return 8 * size // bits, size


def _shifts(count: int, step: int, device: torch.device) -> Tensor:
    return torch.arange(0, count * step, step, device=device)


FORMATS: dict[str, Callable[[], RowFormat]] = {"int8": Int8Rows, "int4": partial(IntegerGroups, 4, 32)}
