"""Walk long axes in blocks, so that temporary arrays stay small.

Axis letters used throughout: n rows, d features, k subspaces, j rank of one subspace.
"""

from collections.abc import Iterator
from functools import cache

import torch

__all__ = ["BLOCK_ELEMENTS", "CACHED_ELEMENTS", "blocks", "compute_dtype", "has_fast_bfloat16"]

BLOCK_ELEMENTS = 1 << 22
"""Largest number of elements of a temporary array (16 MiB in float32)."""


CACHED_ELEMENTS = 1 << 21
"""As `BLOCK_ELEMENTS`, for arrays that are read again at once and so should stay in the processor's cache."""


def blocks(length: int, width: int, *, elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """Yield consecutive slices of an axis of `length`, each at most `elements` / `width` long."""
    step = max(1, elements // max(1, width))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in for stored numbers of `dtype`: float64 stays, all else is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@cache
def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether `device` multiplies bfloat16 matrices in hardware; elsewhere they are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
