"""What the parts of a replacement cost in bytes, so that a budget is split between them as it is spent."""

from dataclasses import dataclass

import torch

from foldflat.embedding.module import MOST_BYTE_CODES
from foldflat.embedding.packed import label_bits
from foldflat.embedding.recipe import INTEGER_COEFFICIENTS, EmbeddingRecipe, stored_dtype
from foldflat.embedding.storage import packed_bytes

__all__ = ["Prices", "prices_of"]

_SCALE_BYTES = 4


@dataclass(frozen=True)
class Prices:
    """Say what is stored in how many bytes.

    Attributes:
        coefficient: bytes of one.
        basis_vector: bytes of the d numbers of one, with its scale.
        labels: bytes of the subspaces of all rows.
    """

    coefficient: float
    basis_vector: int
    labels: int

    @property
    def basis_vector_in_coefficients(self) -> float:
        """Return how many coefficients take as many bytes as a basis vector."""
        return self.basis_vector / self.coefficient


def prices_of(recipe: EmbeddingRecipe, shape: tuple[int, int], dtype: torch.dtype, classes: int) -> Prices:
    """Return the prices of a replacement.

    Args:
        recipe: says how coefficients are stored.
        shape: (n, d) of the table.
        dtype: of the table.
        classes: number of subspaces, the padding row counted as one; the most that there may be.
    """
    n, d = shape
    if recipe.coefficients in INTEGER_COEFFICIENTS:
        bits = INTEGER_COEFFICIENTS[recipe.coefficients]
        return Prices(bits / 8, d + _SCALE_BYTES, packed_bytes(n, label_bits(classes)))
    itemsize = stored_dtype(recipe, dtype).itemsize
    return Prices(itemsize, d * itemsize, n if classes <= MOST_BYTE_CODES else 2 * n)
