"""From a table and a recipe to a replacement module: one function per method."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foldflat.cluster.fit import Clustering
from foldflat.cluster.search import search_subspaces
from foldflat.cluster.trials import SearchSettings, Trial
from foldflat.embedding.base import CompressedEmbedding, titled
from foldflat.embedding.baselines import QuantizedEmbedding
from foldflat.embedding.bounded import RatioSearch, svd_losses
from foldflat.embedding.error import table_error
from foldflat.embedding.mixing import fit_mixed
from foldflat.embedding.module import MOST_BYTE_CODES, SubspaceEmbedding
from foldflat.embedding.prices import Prices, prices_of
from foldflat.embedding.quantizing import quantized_subspaces
from foldflat.embedding.recipe import INTEGER_COEFFICIENTS, EmbeddingRecipe, stored_dtype
from foldflat.embedding.storage import FORMATS
from foldflat.errors import BudgetError, RecipeError

__all__ = ["Fitted", "Table", "Watch", "dense_bytes", "describe", "fit", "fitting_weights", "settings_for"]

Watch = Callable[[str], None]

_USUAL_ADVANTAGE = 0.3
_MAX_ITER = 60
_TOL = 3e-4


@dataclass(frozen=True)
class Table:
    """Name one table and what of it counts.

    Attributes:
        name: dotted name in the model, "" for a bare table.
        weight: (n, d), finite.
        padding_idx: row to keep exactly, or None.
        row_weights: (n,) float64, positive, or None.
        budget_bytes: stored bytes that this table may take, or None.
        counts: (n,) how often each row occurred, where the row weights come from counts.
    """

    name: str
    weight: Tensor
    padding_idx: int | None = None
    row_weights: Tensor | None = None
    budget_bytes: int | None = None
    counts: Tensor | None = None

    @property
    def title(self) -> str:
        """Return what messages call the table."""
        return titled(self.name)


@dataclass
class Fitted:
    """Hold a replacement module and how it was found; `asked` is what of the recipe to change to fit it at once."""

    module: CompressedEmbedding
    method: str
    trials: list[Trial] = field(default_factory=list)
    converged: bool = True
    seconds: float = 0.0
    asked: dict[str, Any] = field(default_factory=dict)


def fit(table: Table, recipe: EmbeddingRecipe, watch: Watch | None = None) -> Fitted:
    """Fit a replacement of one table as the recipe asks; its method is not "auto" (`search` of candidates does that).

    Raises:
        BudgetError: the budget is below the smallest replacement; the message names it.
        RecipeError: k > n.
    """
    started = time.perf_counter()
    if len(table.weight) == 1 and table.padding_idx is not None and recipe.method not in FORMATS:
        raise BudgetError(f"the only row of {table.title} is its padding row, which is kept as it is; hint: exclude it")
    if recipe.method in FORMATS:
        fitted = _fit_format(table, recipe.method)
    elif recipe.coefficients == "mixed":
        fitted = _fit_mixed(table, recipe, watch)
    elif recipe.max_error is not None:
        fitted = _fit_to_error(table, recipe, watch)
    else:
        fitted = _fit_subspaces(table, recipe, _parameters(table, recipe), watch)
    fitted.seconds = time.perf_counter() - started
    return fitted


def dense_bytes(table: Table) -> int:
    """Return the bytes of the table as it is."""
    return table.weight.numel() * table.weight.element_size()


def _fit_format(table: Table, name: str) -> Fitted:
    module = QuantizedEmbedding.from_table(table.weight, name, padding_idx=table.padding_idx)
    if table.budget_bytes is not None and module.size_bytes > table.budget_bytes:
        raise BudgetError(
            f"{table.title} takes {module.size_bytes} bytes in {name}, more than its budget of "
            f"{table.budget_bytes}; hint: raise the budget to that or use method 'subspaces'"
        )
    return Fitted(module, name)


def _fit_mixed(table: Table, recipe: EmbeddingRecipe, watch: Watch | None) -> Fitted:
    assert table.budget_bytes is not None
    module = fit_mixed(
        table.weight,
        table.row_weights,
        table.budget_bytes,
        padding_idx=table.padding_idx,
        seed=recipe.seed,
        watch=None if watch is None else lambda line: watch(f"{table.name or 'table'}: {line}"),
    )
    return Fitted(module, "mixed")


def settings_for(table: Table, recipe: EmbeddingRecipe, parameters: float | None = None) -> SearchSettings:
    """Return what to ask of the clustering; `parameters` default to the recipe's budget for this table.

    Raises:
        BudgetError: the budget is below the smallest replacement; the message names it.
        RecipeError: k > n.
    """
    rows = table.weight.shape[0] - (table.padding_idx is not None)
    k = 1 if recipe.method == "svd" else recipe.n_subspaces
    if isinstance(k, int) and k > rows:
        raise RecipeError(f"`n_subspaces` is {k}, more than the {rows} rows of {table.title}")
    budget = _parameters(table, recipe) if parameters is None else parameters
    _check_smallest(table, recipe, budget, 1 if k == "auto" else k)
    return SearchSettings(
        budget,
        free=recipe.free_ranks and k != 1,
        n_subspaces=None if k == "auto" else k,
        max_subspaces=_most_with_one_byte(table) if k == "auto" else k,
        max_iter=_MAX_ITER,
        tol=_TOL,
        seed=recipe.seed,
        basis_price=_basis_price(table, recipe),
    )


def describe(name: str, trial: Trial) -> str:
    """Return a line of progress."""
    shared = f" in {trial.n_bases} bases" if trial.n_bases < trial.n_subspaces else ""
    return f"{name}: {trial.n_subspaces} subspaces{shared} lose {trial.energy_lost:.2%} of the energy"


def _fit_subspaces(table: Table, recipe: EmbeddingRecipe, parameters: float, watch: Watch | None) -> Fitted:
    settings = settings_for(table, recipe, parameters)
    found, trials = search_subspaces(
        table.weight,
        fitting_weights(table),
        settings,
        watch=None if watch is None else lambda trial: watch(describe(table.name or "table", trial)),
    )
    return Fitted(_module(table, recipe, found), recipe.method, trials, found.converged)


def _module(table: Table, recipe: EmbeddingRecipe, found: Clustering) -> CompressedEmbedding:
    groups = found.groups or None
    if recipe.coefficients in INTEGER_COEFFICIENTS:
        return quantized_subspaces(
            table.weight,
            found.labels,
            found.bases,
            bits=INTEGER_COEFFICIENTS[recipe.coefficients],
            groups=groups,
            padding_idx=table.padding_idx,
            row_weights=table.row_weights,
        )
    return SubspaceEmbedding.from_table(
        table.weight,
        found.labels,
        found.bases,
        groups=groups,
        padding_idx=table.padding_idx,
        factor_dtype=stored_dtype(recipe, table.weight.dtype),
    )


def fitting_weights(table: Table) -> Tensor | None:
    """Return (n,) the row weights that subspaces are fitted with: none for the padding row."""
    if table.padding_idx is None:
        return table.row_weights
    n = table.weight.shape[0]
    weights = torch.ones(n, dtype=torch.float64) if table.row_weights is None else table.row_weights.clone()
    # the padding row is stored as it is, so no subspace needs to serve it
    weights[table.padding_idx] = 0
    return weights.to(table.weight.device)


def _parameters(table: Table, recipe: EmbeddingRecipe, keep_ratio: float | None = None) -> float:
    n, d = table.weight.shape
    padding = d if table.padding_idx is not None else 0
    if keep_ratio is None and table.budget_bytes is not None:
        prices = _prices(table, recipe)
        return (table.budget_bytes - prices.labels - padding * table.weight.element_size()) / prices.coefficient
    ratio = recipe.asked_keep_ratio if keep_ratio is None else keep_ratio
    assert ratio is not None
    return ratio * n * d - padding


def _prices(table: Table, recipe: EmbeddingRecipe) -> Prices:
    k = 1 if recipe.method == "svd" else recipe.n_subspaces
    classes = MOST_BYTE_CODES if k == "auto" else k + (table.padding_idx is not None)
    n, d = table.weight.shape
    return prices_of(recipe, (n, d), table.weight.dtype, classes)


def _basis_price(table: Table, recipe: EmbeddingRecipe) -> float | None:
    """Return what a basis vector costs in coefficients: by bytes where the budget is, else d as the paper counts."""
    return None if table.budget_bytes is None else _prices(table, recipe).basis_vector_in_coefficients


def _most_with_one_byte(table: Table) -> int:
    return MOST_BYTE_CODES - (table.padding_idx is not None)


def _check_smallest(table: Table, recipe: EmbeddingRecipe, parameters: float, k: int) -> None:
    n, d = table.weight.shape
    padding = table.padding_idx is not None
    price = _basis_price(table, recipe)
    smallest = n - padding + k * (d if price is None else price)
    if parameters >= smallest:
        return
    total = n - padding + (k + padding) * d
    prices = _prices(table, recipe)
    least = (n - padding) * prices.coefficient + k * prices.basis_vector + prices.labels
    least += padding * d * table.weight.element_size()
    way_out = f"the smallest is keep_ratio {total / (n * d):.4g}, or {math.ceil(least)} bytes" + (
        ", or fewer subspaces" if k > 1 else "; or exclude it"
    )
    if total > n * d:
        way_out = "subspaces make this table no smaller; exclude it, or use method 'int8'"
    asked = "the budget" if table.budget_bytes is not None else f"`keep_ratio` {recipe.asked_keep_ratio}"
    raise BudgetError(
        f"{asked} leaves {max(0, int(parameters))} parameters for {table.title} ({n} x {d}), too few for "
        f"rank 1 in {k} subspace{'s' if k > 1 else ''}\n"
        f"hint: {way_out}"
    )


def _fit_to_error(table: Table, recipe: EmbeddingRecipe, watch: Watch | None) -> Fitted:
    assert recipe.max_error is not None
    n, d = table.weight.shape
    advantage = None if recipe.method == "svd" else _USUAL_ADVANTAGE
    search = RatioSearch(svd_losses(table.weight), (n, d), recipe.max_error, first_advantage=advantage)
    best: Fitted | None = None
    while (ratio := search.propose()) is not None:
        try:
            fitted = _fit_subspaces(table, recipe, _parameters(table, recipe, ratio), None)
        except BudgetError:
            search.refuse(ratio)
            continue
        lost = table_error(table.weight, fitted.module).energy_lost
        if watch is not None:
            watch(f"{table.name or 'table'}: keep ratio {ratio:.3f} loses {lost:.2%} of the energy")
        if search.learn(ratio, lost, fitted.module.parameters_stored / (n * d)):
            best = fitted
            best.asked = {"max_error": None, "keep_ratio": ratio}
    if best is None:
        raise BudgetError(
            f"{table.title} loses more than `max_error` {recipe.max_error} of its energy at every keep ratio "
            f"up to {search.high:.3f}; hint: raise `max_error`, or use method 'int8'"
        )
    return best
