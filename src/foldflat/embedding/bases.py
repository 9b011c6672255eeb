"""Bases of trellis-coded tables as they are stored: in float16, or in int8 with what scales take over."""

import torch
from torch import Tensor

__all__ = ["BASIS_STEPS", "dual_basis", "stored_basis", "unit_vectors"]

BASIS_STEPS = 128
"""What int8 bases are divided by: a power of two, so that it changes no digit."""


def stored_basis(basis: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a basis (rank, d) as it is stored; of int8 the largest number of each vector is 127."""
    if dtype.is_floating_point:
        return basis.to(dtype)
    largest = basis.abs().amax(1, keepdim=True)
    return (basis / torch.where(largest > 0, largest, 1.0) * (BASIS_STEPS - 1)).round().to(dtype)


def unit_vectors(vectors: Tensor) -> Tensor:
    """Return vectors (.., d) of length 1, zeros as they are."""
    return torch.nn.functional.normalize(vectors, dim=1)


def dual_basis(basis: Tensor) -> Tensor:
    """Return what gives the coefficients of rows in unit vectors that rounding left nearly orthogonal."""
    gram = basis @ basis.T
    # a row of zeros is in a basis of odd rank
    gram.diagonal().add_((gram.diagonal() == 0).to(gram.dtype))
    dual: Tensor = torch.linalg.solve(gram, basis)
    return dual
