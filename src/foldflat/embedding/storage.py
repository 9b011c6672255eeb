"""How numbers of a table are stored: one small class per format, rows decodable alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["FORMATS", "Int4Groups", "Int8Rows", "RowFormat"]


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
class Int4Groups:
    """Store each group of 32 numbers as 4-bit integers with one float16 scale: 4.5 bits a number.

    The scale of a group is the one, of 8 candidates, with the least squared error.
    """

    name: str = "int4"
    group: int = 32

    def layout(self, n: int, d: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return codes (n, ceil(d / 32) x 16) uint8, two to a byte, and scales (n, ceil(d / 32)) float16."""
        groups = -(-d // self.group)
        return {"codes": ((n, groups * self.group // 2), torch.uint8), "scales": ((n, groups), torch.float16)}

    def encode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Round each group to -8..7 times its scale."""
        n, d = rows.shape
        groups = -(-d // self.group)
        values = functional.pad(rows.float(), (0, groups * self.group - d)).view(n, groups, self.group)
        extreme = values.gather(2, values.abs().argmax(2, keepdim=True))
        best_scale = torch.zeros_like(extreme)
        best_error = torch.full_like(extreme, torch.inf)
        # -extreme / 8 puts the largest magnitude on the longer, negative side of the range
        for level in torch.linspace(5.5, 8.0, 8).tolist():
            scale = (-extreme / level).half().float()
            error = (_rounded(values, scale) * scale - values).square().sum(2, keepdim=True)
            better = error < best_error
            best_scale, best_error = (
                torch.where(better, scale, best_scale),
                torch.where(better, error, best_error),
            )
        codes = (_rounded(values, best_scale) + 8).to(torch.uint8).view(n, groups * self.group)
        return codes[:, 0::2] | (codes[:, 1::2] << 4), best_scale.squeeze(2).half()

    def decode(self, codes: Tensor, scales: Tensor, d: int) -> Tensor:
        """Unpack two numbers from each byte and multiply by the group's scale."""
        unpacked = torch.stack((codes & 15, codes >> 4), dim=2).view(codes.shape[0], -1, self.group)
        values = (unpacked.float() - 8) * scales.float()[:, :, None]
        return values.view(codes.shape[0], -1)[:, :d]


def _rounded(values: Tensor, scale: Tensor) -> Tensor:
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (values / safe).round().clamp(-8, 7)


FORMATS: dict[str, Callable[[], RowFormat]] = {"int8": Int8Rows, "int4": Int4Groups}
