"""The methods of a sweep by name: what each asks of the table."""

import re

from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import RecipeError

__all__ = ["ENSEMBLE", "ENSEMBLE_OF", "METHODS_IN_WORDS", "check_method", "has_rate", "recipe_of"]

ENSEMBLE = "paper"
ENSEMBLE_OF = (2, 3, 4, 5)
"""The numbers of subspaces that the paper chooses from."""

METHODS_IN_WORDS = "none, svd, paper-2 (or another number of subspaces), paper, ours, int8 or int4"
_OF_ONE_SIZE = ("none", "int8", "int4")
_WITH_RATE = ("svd", ENSEMBLE, "ours")
_PAPER = re.compile(r"paper-([2-9]|[1-9][0-9]+)")


def check_method(name: str) -> None:
    """Raise RecipeError for a method that there is not."""
    if name not in (*_OF_ONE_SIZE, *_WITH_RATE) and not _PAPER.fullmatch(name):
        raise RecipeError(f"unknown method {name!r}\nhint: {METHODS_IN_WORDS}")


def has_rate(name: str) -> bool:
    """Say whether a method makes tables of any size."""
    return name not in _OF_ONE_SIZE


def recipe_of(name: str, rate: float | None, seed: int) -> EmbeddingRecipe | None:
    """Return the recipe of a method, None for the one that leaves the model as it is.

    Args:
        name: any but the ensemble, which is a choice among others.
        rate: share of the table's parameters to remove; None for a method of one size.
        seed: of the recipe.
    """
    if name == "none":
        return None
    if rate is None:
        return EmbeddingRecipe(method=name, seed=seed)
    keep_ratio = round(1 - rate, 12)  # 1 - 0.43 is 0.5700000000000001
    subspaces = _PAPER.fullmatch(name)
    if subspaces:
        return EmbeddingRecipe(keep_ratio=keep_ratio, n_subspaces=int(subspaces[1]), free_ranks=False, seed=seed)
    method = "svd" if name == "svd" else EmbeddingRecipe.method
    return EmbeddingRecipe(keep_ratio=keep_ratio, method=method, seed=seed)
