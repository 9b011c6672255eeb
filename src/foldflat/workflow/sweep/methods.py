"""The methods of a sweep by name: what each asks of the table."""

import re
from typing import Any

from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import RecipeError

__all__ = ["METHODS_IN_WORDS", "among", "check_method", "is_weighted", "rates_of", "recipe_of"]

ENSEMBLE = "paper"
ENSEMBLE_OF = (2, 3, 4, 5)
"""The numbers of subspaces that the paper chooses from."""

METHODS_IN_WORDS = (
    "none, int8, int4, svd, paper-2 (or another number of subspaces), paper, ours or mixed, the last five also with "
    "-weighted"
)
_WEIGHTED = "-weighted"
_OF_ONE_SIZE = ("none", "int8", "int4")
_OF_BYTES = "mixed"
_WITH_RATE = ("svd", ENSEMBLE, "ours", _OF_BYTES)
_PAPER = re.compile(r"paper-([2-9]|[1-9][0-9]+)")


def check_method(name: str) -> None:
    """Raise RecipeError for a method that there is not."""
    plain = name.removesuffix(_WEIGHTED)
    known = plain in _WITH_RATE or _PAPER.fullmatch(plain) is not None
    if not known and name not in _OF_ONE_SIZE:
        raise RecipeError(f"unknown method {name!r}\nhint: {METHODS_IN_WORDS}")


def rates_of(name: str) -> str | None:
    """Return the axis of a method's sizes: shares of "rates", parameters, or "byte_rates"; None for one size."""
    if name in _OF_ONE_SIZE:
        return None
    return "byte_rates" if name.removesuffix(_WEIGHTED) == _OF_BYTES else "rates"


def is_weighted(name: str) -> bool:
    """Say whether a method weights rows by how often their tokens occur in the training texts."""
    return name.endswith(_WEIGHTED)


def among(name: str) -> tuple[str, ...]:
    """Return the methods that the paper's choice is made from; none for a method that is no such choice."""
    plain = name.removesuffix(_WEIGHTED)
    return tuple(f"{ENSEMBLE}-{k}{name.removeprefix(plain)}" for k in ENSEMBLE_OF) if plain == ENSEMBLE else ()


def recipe_of(name: str, rate: float | None, seed: int, *, table_bytes: int) -> EmbeddingRecipe | None:
    """Return the recipe of a method, None for the one that leaves the model as it is.

    Args:
        name: any but the ensemble, which is a choice among others.
        rate: share of the table's parameters or bytes to remove; None for a method of one size.
        seed: of the recipe.
        table_bytes: of the table, for a method that removes bytes.
    """
    if name == "none":
        return None
    if rate is None:
        return EmbeddingRecipe(method=name, seed=seed)
    plain = name.removesuffix(_WEIGHTED)
    keep_ratio = round(1 - rate, 12)  # 1 - 0.43 is 0.5700000000000001
    common: dict[str, Any] = {"row_weights": "auto" if is_weighted(name) else None, "seed": seed}
    if plain == _OF_BYTES:
        return EmbeddingRecipe(budget_bytes=int(keep_ratio * table_bytes), coefficients="mixed", **common)
    common["keep_ratio"] = keep_ratio
    subspaces = _PAPER.fullmatch(plain)
    if subspaces:
        return EmbeddingRecipe(n_subspaces=int(subspaces[1]), free_ranks=False, **common)
    return EmbeddingRecipe(method="svd" if plain == "svd" else EmbeddingRecipe.method, **common)
