"""What a user asks for an embedding."""

import math
import numbers
import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from foldflat.embedding.storage import FORMATS
from foldflat.errors import RecipeError

__all__ = [
    "COEFFICIENTS",
    "DEFAULT_KEEP_RATIO",
    "INTEGER_COEFFICIENTS",
    "METHODS",
    "EmbeddingRecipe",
    "recipe_warnings",
    "stored_dtype",
]

METHODS = ("subspaces", "svd", *FORMATS, "auto")
INTEGER_COEFFICIENTS = {"int8": 8, "int4": 4}
"""Bits of the integers that coefficients are stored as."""

COEFFICIENTS = ("same", "float32", "bfloat16", *INTEGER_COEFFICIENTS, "mixed")
DEFAULT_KEEP_RATIO = 0.6
_MOST_SUBSPACES = 32767
_MOST_QUANTIZED_SUBSPACES = 255


@dataclass(frozen=True)
class EmbeddingRecipe:
    """Ask for smaller embedding tables.

    Args:
        keep_ratio: parameters to keep, n j + k j d against n d, in (0, 1]; 0.6 when no budget is given.
        budget_bytes: stored bytes of all matched tables together, never exceeded.
        max_error: energy that may be lost, |A - B|_F^2 / |A|_F^2, in (0, 1). At most one of these three.
        method: "subspaces" (projective clustering), "svd" (one subspace), "int8" or "int4" rows, or "auto": all of
            them, and subspaces in every type that `coefficients` leaves open, of which the one that loses least within
            the bytes is taken, or with `max_error` the smallest. Losses below 0.02 % count as equal. An interrupt from
            the keyboard ends that search, and the best so far is taken.
        n_subspaces: k, or "auto": 1, 2, 4, .. while the error falls.
        free_ranks: let ranks differ between subspaces under the budget; False gives the paper's equal ranks.
        row_weights: importance of rows, (n,). A tensor or array is used as it is. Counts, given as a path to .npy
            with n numbers, a path to JSON with token -> count, or "auto" (counted in the calibration data), are
            raised to the power 1/2; rows without a count count once.
        coefficients: type that coefficients and bases are stored in: "same" as the table, "float32", "bfloat16";
            "int8" or "int4" in steps of each direction's own size, with bases in int8; or "mixed", trellis codes with
            as many bits for each direction and row as it is worth, for `budget_bytes`.
        include: dotted-name patterns (as in fnmatch) of the embeddings to replace. None: the input embedding of a
            transformers model with its tied head; every nn.Embedding of any other module.
        exclude: patterns of embeddings to leave alone.
        seed: everything random follows from it.

    Raises:
        RecipeError: a value is out of range or contradicts another.
    """

    keep_ratio: float | None = None
    budget_bytes: int | None = None
    max_error: float | None = None
    method: str = "subspaces"
    n_subspaces: int | Literal["auto"] = "auto"
    free_ranks: bool = True
    row_weights: Tensor | np.ndarray[Any, Any] | str | os.PathLike[str] | None = None
    coefficients: str = "same"
    include: str | tuple[str, ...] | None = None
    exclude: str | tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of(self.method, METHODS, "method")
        _one_of(self.coefficients, COEFFICIENTS, "coefficients")
        self._check_budget()
        if self.n_subspaces != "auto" and not (isinstance(self.n_subspaces, int) and self.n_subspaces >= 1):
            raise RecipeError(f'`n_subspaces` is {self.n_subspaces!r}; hint: give "auto" or an integer of at least 1')
        if self.n_subspaces != "auto" and self.n_subspaces > _MOST_SUBSPACES:
            raise RecipeError(f"`n_subspaces` is {self.n_subspaces}; at most {_MOST_SUBSPACES} can be told apart")
        if self.method == "svd" and self.n_subspaces not in ("auto", 1):
            raise RecipeError(
                f'`n_subspaces` is {self.n_subspaces}, but "svd" is one subspace; hint: use method "subspaces"'
            )
        if self.method in FORMATS and self.coefficients != "same":
            raise RecipeError(f'`coefficients` is {self.coefficients!r}, but "{self.method}" has none')
        if self.coefficients in INTEGER_COEFFICIENTS:
            self._check_integers()
        if self.coefficients == "mixed":
            self._check_mixed()
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**32):
            raise RecipeError(f"`seed` is {self.seed!r}; hint: give an integer in [0, 2^32)")

    def _check_integers(self) -> None:
        if self.n_subspaces != "auto" and self.n_subspaces > _MOST_QUANTIZED_SUBSPACES:
            raise RecipeError(
                f'`n_subspaces` is {self.n_subspaces}, but with `coefficients` "{self.coefficients}" at most '
                f"{_MOST_QUANTIZED_SUBSPACES} can be told apart; hint: ask for fewer"
            )

    def _check_mixed(self) -> None:
        if self.method != "subspaces" or self.n_subspaces != "auto":
            raise RecipeError('`coefficients` "mixed" choose their bases; hint: leave `method` and `n_subspaces` out')
        if self.budget_bytes is None:
            raise RecipeError('`coefficients` "mixed" have any size in bytes; hint: give `budget_bytes`')

    def _check_budget(self) -> None:
        given = [name for name in ("keep_ratio", "budget_bytes", "max_error") if getattr(self, name) is not None]
        if len(given) > 1:
            raise RecipeError(f"{' and '.join(f'`{name}`' for name in given)} are given; hint: give one of them")
        if self.method in FORMATS and self.keep_ratio is not None:
            bits = {"int8": "8 bits a number and 32 a row", "int4": "4.5 bits a number"}[self.method]
            raise RecipeError(
                f'`keep_ratio` is {self.keep_ratio}, but "{self.method}" has one size, {bits} (keep ratio 1.0 in '
                "parameters); hint: leave `keep_ratio` out"
            )
        for name in given:
            if not isinstance(getattr(self, name), numbers.Real):
                raise RecipeError(f"`{name}` is {getattr(self, name)!r}; hint: give a number")
        if self.keep_ratio is not None and not 0 < self.keep_ratio <= 1:
            raise RecipeError(
                f"`keep_ratio` is {self.keep_ratio}, outside (0, 1]; hint: 0.6 keeps 60 % of the parameters"
            )
        if self.budget_bytes is not None and not 1 <= self.budget_bytes < math.inf:
            raise RecipeError(f"`budget_bytes` is {self.budget_bytes}; hint: give a positive number of bytes")
        if self.max_error is not None and not (0 < self.max_error < 1 and math.isfinite(self.max_error)):
            raise RecipeError(f"`max_error` is {self.max_error}, outside (0, 1); it is the share of energy lost")

    @property
    def asked_keep_ratio(self) -> float | None:
        """Return the keep ratio that holds: the given one, 0.6 when no budget is given, None otherwise."""
        if self.budget_bytes is not None or self.max_error is not None:
            return None
        return DEFAULT_KEEP_RATIO if self.keep_ratio is None else self.keep_ratio

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-serialisable values; weights given as numbers are named, not copied."""
        values = {name: value for name, value in vars(self).items() if name != "row_weights"}
        weights = self.row_weights
        if isinstance(weights, str | os.PathLike):
            values["row_weights"] = str(weights)
        else:
            values["row_weights"] = None if weights is None else f"{len(weights)} numbers"
        return values


def _one_of(value: str, choices: tuple[str, ...], name: str) -> None:
    if value not in choices:
        raise RecipeError(f"`{name}` is {value!r}, which is unknown; hint: choose one of {', '.join(choices)}")


def recipe_warnings(recipe: dict[str, Any]) -> list[str]:
    """Return what a recipe, as JSON values, leaves out that would gain much."""
    by_bytes = recipe["coefficients"] == "mixed" or recipe["method"] == "auto"
    if not by_bytes or recipe["row_weights"] is not None:
        return []
    advice = (
        "all rows count alike; token counts from a sample of your text gain more at the same bytes than any other "
        "setting: `foldflat compress MODEL --text FILE_OR_DATASET ..`, in Python `row_weights`"
    )
    return [advice]


def stored_dtype(recipe: EmbeddingRecipe, table: torch.dtype) -> torch.dtype:
    """Return the type that coefficients of a table of type `table` are stored in."""
    return table if recipe.coefficients == "same" else getattr(torch, recipe.coefficients)
