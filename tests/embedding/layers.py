"""Layers whose content is known: random tables, random partitions, random orthonormal bases."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foldflat.embedding.base import CompressedEmbedding
from foldflat.embedding.baselines import QuantizedEmbedding
from foldflat.embedding.mixing import fit_mixed
from foldflat.embedding.module import SubspaceEmbedding
from foldflat.embedding.quantized import QuantizedSubspaceEmbedding
from foldflat.embedding.quantizing import quantized_subspaces

KINDS = ("subspaces", "subspaces-int8", "subspaces-int4", "int8", "int4", "mixed")
MIXED_BYTES = 9500


def random_table(n: int, d: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw a standard normal table (n, d)."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_bases(d: int, ranks: Sequence[int], *, seed: int = 1) -> list[Tensor]:
    """Draw a matrix (rank, d) with orthonormal rows for each rank, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.linalg.qr(torch.randn(d, rank, generator=generator, dtype=torch.float64)).Q.T.contiguous()
        for rank in ranks
    ]


def random_labels(n: int, k: int, *, seed: int = 2) -> Tensor:
    """Draw balanced labels (n,) of k subspaces, in random order."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)) % k


def subspace_layer(
    n: int = 60,
    d: int = 12,
    ranks: Sequence[int] = (3, 5, 2),
    *,
    padding_idx: int | None = None,
    dtype: torch.dtype = torch.float32,
    factor_dtype: torch.dtype | None = None,
) -> tuple[SubspaceEmbedding, Tensor]:
    """Return a layer and the table it was made from."""
    table = random_table(n, d, dtype=dtype)
    labels = random_labels(n, len(ranks))
    layer = SubspaceEmbedding.from_table(
        table, labels, random_bases(d, ranks), padding_idx=padding_idx, factor_dtype=factor_dtype
    )
    return layer, table


def quantized_layer(
    n: int = 60, d: int = 12, *, bits: int, padding_idx: int | None = None
) -> tuple[QuantizedSubspaceEmbedding, Tensor]:
    """Return a layer of three subspaces, the first a part of the last, and the table it was made from.

    Ranks and sizes are odd and even, so that rows of 4-bit coefficients begin at bytes and within them.
    """
    table = random_table(n, d)
    long, other = random_bases(d, (5, 2))
    layer = quantized_subspaces(
        table, random_labels(n, 3), [long[:3], other, long], bits=bits, groups=[0, 1, 0], padding_idx=padding_idx
    )
    return layer, table


def layer_of(kind: str, *, n: int = 60, d: int = 12, padding_idx: int | None = None) -> CompressedEmbedding:
    """Return a layer of one of `KINDS`."""
    if kind == "subspaces":
        return subspace_layer(n, d, padding_idx=padding_idx)[0]
    if kind.startswith("subspaces-int"):
        return quantized_layer(n, d, bits=int(kind[-1]), padding_idx=padding_idx)[0]
    if kind == "mixed":
        weights = torch.logspace(0, 6, n, base=2, dtype=torch.float64)
        return fit_mixed(random_table(n, d), weights, MIXED_BYTES, padding_idx=padding_idx)
    return QuantizedEmbedding.from_table(random_table(n, d), kind, padding_idx=padding_idx)


def slow_row(layer: SubspaceEmbedding, row: int) -> Tensor:
    """Return one row by counting: its place is the number of earlier rows of the same subspace."""
    code = int(layer.assignment[row])
    if code == len(layer.bases):
        return layer.fixed[0]
    place = sum(int(other) == code for other in layer.assignment[:row])
    return torch.stack([u * v for u, v in zip(layer.coefficients[code][place], layer.bases[code], strict=True)]).sum(0)


def dense_composition(layer: SubspaceEmbedding) -> Tensor:
    """Return the table (n, d) as plain torch operations on the layer's parameters, for autograd to differentiate."""
    rows = [slow_row(layer, row) for row in range(layer.num_embeddings)]
    return torch.stack(rows)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the gradients by parameter name, zeros where there is none, and clear them."""
    found = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in module.named_parameters()
    }
    module.zero_grad()
    return found
