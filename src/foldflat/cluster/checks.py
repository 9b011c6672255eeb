"""What the estimator refuses, and why."""

import math
import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_sample_weight

from foldflat.cluster.allocation import largest_equal_rank
from foldflat.cluster.losses import LOSSES
from foldflat.cluster.seeding import STARTS
from foldflat.errors import BudgetError, DataError, RecipeError

__all__ = ["check_settings", "checked_weights", "has_flats", "rank_or_budget"]

SQUARES = 2.0
"""The power of squared distances."""


def has_flats(model: Any) -> bool:
    """Return whether an estimator minimises anything but squared distances to subspaces."""
    return bool(model.affine or model.loss != "power" or model.power != SQUARES)


def check_settings(model: Any, n: int, d: int) -> None:
    """Raise RecipeError for the first setting of an estimator that does not fit n rows of d features."""
    _check_counts(model)
    if model.n_subspaces > n:
        raise RecipeError(
            f"`n_subspaces` is {model.n_subspaces}, more than the n_samples = {n} rows given; "
            f"hint: lower it to {n} or less"
        )
    if model.rank is not None:
        _at_least(model.rank, "rank", 1)
        if model.rank > d:
            raise RecipeError(f"`rank` is {model.rank}, more than the {d} features; hint: lower it to {d} or less")
        if model.keep_ratio is not None:
            raise RecipeError("both `rank` and `keep_ratio` are given; hint: give one, the other follows")
    if model.keep_ratio is not None and not 0 < model.keep_ratio <= 1:
        raise RecipeError(f"`keep_ratio` is {model.keep_ratio}, outside (0, 1]")
    if model.free_ranks and model.keep_ratio is None:
        raise RecipeError("`free_ranks` needs a budget; hint: give `keep_ratio` instead of `rank`")
    if not model.tol >= 0:
        raise RecipeError(f"`tol` is {model.tol}, below 0")
    if model.init not in STARTS:
        raise RecipeError(f"`init` is {model.init!r}, which is unknown; hint: choose one of {', '.join(STARTS)}")
    _check_loss(model)


def _check_counts(model: Any) -> None:
    _at_least(model.n_subspaces, "n_subspaces", 1)
    _at_least(model.n_init, "n_init", 1)
    _at_least(model.max_iter, "max_iter", 1)
    _at_least(model.n_moves or 0, "n_moves", 0)
    _at_least(model.annealing, "annealing", 0)
    for name in ("n_moves", "annealing"):
        if getattr(model, name) and has_flats(model):
            raise RecipeError(
                f"`{name}` is {getattr(model, name)}, but only squared distances to subspaces are searched that way; "
                f"hint: leave `{name}` out with `affine`, `loss` or `power`"
            )


def _check_loss(model: Any) -> None:
    if not 1 <= model.power <= SQUARES:
        raise RecipeError(f"`power` is {model.power}, outside [1, 2]; hint: 2 is the square, 1 resists outliers most")
    if model.loss not in LOSSES:
        raise RecipeError(f"`loss` is {model.loss!r}, which is unknown; hint: choose one of {', '.join(LOSSES)}")
    if model.loss != "power" and model.power != SQUARES:
        raise RecipeError(f"`power` is {model.power} and `loss` is {model.loss!r}; hint: leave one at its default")
    if model.loss_scale is not None and (model.loss == "power" or not model.loss_scale > 0):
        raise RecipeError(
            f"`loss_scale` is {model.loss_scale} for `loss` {model.loss!r}; hint: give a distance above 0, and only "
            "with an M-estimator"
        )
    if model.free_ranks and (model.affine or model.loss != "power" or model.power != SQUARES):
        raise RecipeError("free ranks need squared distances to linear subspaces; hint: set free_ranks=False")


def rank_or_budget(model: Any, n: int, d: int) -> tuple[int | None, float | None]:
    """Return the common rank, or the parameters that free ranks may take; BudgetError where no rank fits."""
    if model.keep_ratio is None:
        return (model.rank or max(1, d // 2)), None
    budget = model.keep_ratio * n * d
    smallest = (n + model.n_subspaces * d) / (n * d)
    rank = largest_equal_rank(n, d, model.n_subspaces, budget)
    if rank == 0:
        way_out = f"raise it to {math.ceil(smallest * 1e4) / 1e4:.4f}" if smallest <= 1 else ""
        if model.n_subspaces > 1:
            way_out += " or lower `n_subspaces`" if way_out else "lower `n_subspaces`"
        raise BudgetError(
            f"`keep_ratio` {model.keep_ratio} keeps {int(budget)} of {n * d} numbers, too few for rank 1 in "
            f"{model.n_subspaces} subspaces; hint: {way_out}"
        )
    return (None, budget) if model.free_ranks else (rank, None)


def _at_least(value: object, name: str, least: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < least:
        raise RecipeError(f"`{name}` is {value!r}; hint: give an integer of at least {least}")


def checked_weights(sample_weight: ArrayLike | None, rows: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return (n,) weights in float64; DataError where they are negative or all zero."""
    if sample_weight is None:
        return None
    if not np.any(np.asarray(sample_weight)):
        raise DataError("`sample_weight` is all zero; hint: give at least one row a positive weight")
    weights: NDArray[np.float64] = _check_sample_weight(sample_weight, rows, dtype=np.float64)
    if (weights < 0).any():
        raise DataError(
            f"`sample_weight` has {int((weights < 0).sum())} negative entries; hint: weights are at least 0"
        )
    return weights
