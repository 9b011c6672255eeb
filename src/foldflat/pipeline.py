"""Recipe -> plan -> result. Only `apply` makes a new model, and the one it was given stays as it is."""

import copy
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor, nn

from foldflat.embedding.base import CompressedEmbedding, CompressedHead
from foldflat.embedding.build import embedding_from_spec, head_of
from foldflat.embedding.matching import check_fits_model
from foldflat.embedding.plan import EmbeddingPlan, TablePlan, plan_tables
from foldflat.embedding.recipe import EmbeddingRecipe, recipe_warnings
from foldflat.embedding.weights import weights_and_counts
from foldflat.errors import NoEmbeddingError, PlanMismatchError, RecipeError, UnsupportedModelError
from foldflat.filters.plan import FilterPlan
from foldflat.filters.planning import plan_filters
from foldflat.filters.pruning import check_fits_network, layout_after, prune, pruning_report
from foldflat.filters.recipe import FilterRecipe
from foldflat.filters.refitting import fitted_again
from foldflat.model import hub
from foldflat.model.probe import FoundTable, find_tables
from foldflat.model.size import model_size_bytes
from foldflat.model.surgery import copy_around, replace_module

__all__ = ["Result", "apply", "build_empty", "compress", "densify_model", "plan"]

Model = nn.Module | Tensor | np.ndarray[Any, Any]


@dataclass
class Result:
    """Hold a compressed model, the plan it follows, and what it cost and kept.

    Attributes:
        model: a new model; for a bare table, the layer that replaces it.
        plan: what was done.
        report: parameters_before/after and size_bytes_before/after of the tables, model_size_bytes_before/after,
            and for each table its errors, the numbers of subspaces tried, rivals and seconds. Of pruned filters:
            parameters, macs and bytes of the whole network, and for each group what it keeps and what the bound says.
    """

    model: nn.Module
    plan: EmbeddingPlan | FilterPlan
    report: dict[str, Any]

    def to_dense(self) -> nn.Module:
        """Return a model with the same function and plain nn.Embedding tables, for runtimes without foldflat."""
        return densify_model(self.model)


@overload
def plan(
    model: Model, recipe: EmbeddingRecipe, calibration: Any = None, *, watch: Callable[[str], None] | None = None
) -> EmbeddingPlan: ...
@overload
def plan(
    model: Model, recipe: FilterRecipe, calibration: Any = None, *, watch: Callable[[str], None] | None = None
) -> FilterPlan: ...
def plan(
    model: Model,
    recipe: EmbeddingRecipe | FilterRecipe,
    calibration: Any = None,
    *,
    watch: Callable[[str], None] | None = None,
) -> EmbeddingPlan | FilterPlan:
    """Fit what the recipe asks for and say what would be done, without touching the model.

    Args:
        model: any torch module, a transformers model, or one table (n, d) as tensor or array.
        recipe: an EmbeddingRecipe or a FilterRecipe.
        calibration: unlabelled inputs, one batch or an iterable of batches: input ids, or the TokenCounts that
            `foldflat.evaluate.count_tokens` returns, where the recipe counts tokens; about 200 images for filters.
        watch: called with a line of progress now and then.

    Raises:
        RecipeError, BudgetError, DataError, NoEmbeddingError, UnsupportedModelError: see foldflat.errors.
    """
    if isinstance(recipe, FilterRecipe):
        return plan_filters(_network(model), recipe, calibration, watch)
    if not isinstance(recipe, EmbeddingRecipe):
        raise RecipeError(
            f"the recipe is a {type(recipe).__name__}; hint: give a foldflat.EmbeddingRecipe or a foldflat.FilterRecipe"
        )
    module = as_module(model)
    if any(isinstance(part, CompressedEmbedding) for part in module.modules()):
        raise NoEmbeddingError(
            f"{type(module).__name__} is compressed already; hint: compress the original, or its `to_dense()`"
        )
    found = _find(module, recipe)
    return plan_tables(found, recipe, *_weights(module, found, recipe, calibration), watch)


def apply(model: Model, plan: EmbeddingPlan | FilterPlan, calibration: Any = None) -> Result:
    """Return a compressed copy of a model, as a plan says; the given model is not changed.

    A plan read from JSON is fitted again with its seed, which gives the same subspaces for the same weights; so is
    one made for other weights, which the report then says. `calibration` is needed where the recipe counts tokens, and
    where a plan for filters fits weights again (`refit`) and was read from JSON or made for other weights; any other
    plan for filters says all that is to be done, and nothing is measured again.

    Raises:
        PlanMismatchError: the plan is for other names, shapes or ties, or what it needs to be fitted is not at hand.
    """
    if isinstance(plan, FilterPlan):
        return _apply_filters(_network(model), plan, calibration)
    if not isinstance(plan, EmbeddingPlan):
        raise PlanMismatchError(f"the plan is a {type(plan).__name__}; hint: `foldflat.plan` makes one")
    module = as_module(model)
    warnings = check_fits_model(plan, module)
    if not plan.fits or warnings:
        recipe = plan.recipe_object()
        found = _find(module, recipe)
        refitted = plan_tables(found, recipe, *_weights(module, found, recipe, calibration), planned=plan.tables)
        plan = EmbeddingPlan(plan.recipe, refitted.tables, refitted.fits)
    return _apply(module, plan, {name: copy.deepcopy(fit) for name, fit in plan.fits.items()}, warnings)


def compress(
    model: Model,
    recipe: EmbeddingRecipe | FilterRecipe,
    calibration: Any = None,
    *,
    watch: Callable[[str], None] | None = None,
) -> Result:
    """Return a compressed copy of a model: `plan` and `apply` in one, fitted once.

    Args and errors: as in `plan`.
    """
    if isinstance(recipe, FilterRecipe):
        return apply(model, plan(model, recipe, calibration, watch=watch))
    module = as_module(model)
    made = plan(module, recipe, calibration, watch=watch)
    fits = dict(made.fits)
    made.fits.clear()
    return _apply(module, made, fits, [])


def as_module(model: Model) -> nn.Module:
    """Return a module: the model itself, or an nn.Embedding that holds a bare table.

    Raises:
        UnsupportedModelError: neither a module nor a two-dimensional table of floats.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, np.ndarray):
        model = torch.from_numpy(np.require(model, requirements=["C", "W"]))
    if not isinstance(model, Tensor):
        raise UnsupportedModelError(
            f"the model is a {type(model).__name__}; hint: give a torch module, or a table as tensor or array; for a "
            "path use `foldflat compress` or load it first"
        )
    if model.ndim != 2 or not model.is_floating_point() or 0 in model.shape:
        raise UnsupportedModelError(
            f"the table has shape {tuple(model.shape)} and type {model.dtype}; "
            "hint: give (n, d) floats, n and d positive"
        )
    embedding: nn.Embedding = nn.Embedding.from_pretrained(model, freeze=False)
    return embedding


def densify_model(model: nn.Module) -> nn.Module:
    """Return a copy of a compressed model with plain nn.Embedding and nn.Linear layers that compute the same."""
    dense = copy.deepcopy(model)
    embeddings: dict[int, nn.Embedding] = {}
    for name, module in list(dense.named_modules(remove_duplicate=False)):
        if isinstance(module, CompressedEmbedding):
            embedding = embeddings.setdefault(id(module), module.to_embedding())
            dense = replace_module(dense, name, embedding)
    for name, module in list(dense.named_modules(remove_duplicate=False)):
        if isinstance(module, CompressedHead):
            weight = embeddings[id(module.embedding)].weight
            dense = replace_module(dense, name, module.to_linear(weight))
    layout = hub.pruned_layout(model)
    dense = hub.strip(dense)
    return dense if layout is None else hub.adapt(dense, [], layout)


def _network(model: Model) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    raise UnsupportedModelError(f"the model is a {type(model).__name__}; hint: filters are those of a torch module")


def _apply_filters(module: nn.Module, plan: FilterPlan, calibration: Any) -> Result:
    started = time.perf_counter()
    warnings = check_fits_network(plan, module)
    if plan.axes and plan.recipe_object().asked_refit and (warnings or not plan.refits):
        plan = fitted_again(module, plan, calibration)
    layout = layout_after(plan, hub.pruned_layout(module))
    pruned = hub.adapt(prune(module, plan), hub.replaced_tables(module), layout)
    report = pruning_report(plan, warnings)
    report["model_size_bytes_before"] = model_size_bytes(module)
    report["model_size_bytes_after"] = model_size_bytes(pruned)
    report["seconds"] = plan.seconds + time.perf_counter() - started
    return Result(pruned, plan, report)


def _find(module: nn.Module, recipe: EmbeddingRecipe) -> list[FoundTable]:
    return find_tables(module, recipe.include, recipe.exclude, default_names=hub.input_embedding_names(module))


def _weights(
    module: nn.Module, found: list[FoundTable], recipe: EmbeddingRecipe, calibration: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return row weights, and the counts that they come from, by table."""
    by_token = isinstance(recipe.row_weights, str | os.PathLike) and str(recipe.row_weights).endswith(".json")
    vocabulary = hub.vocabulary(module) if by_token else None
    resolve = partial(weights_and_counts, recipe.row_weights, calibration=calibration, vocabulary=vocabulary)
    found_of = {item.name: resolve(item.embedding.num_embeddings, name=item.name or "table") for item in found}
    weights = {name: own for name, (own, _) in found_of.items() if own is not None}
    return weights, {name: counts for name, (_, counts) in found_of.items() if counts is not None}


def _apply(module: nn.Module, plan: EmbeddingPlan, fits: dict[str, CompressedEmbedding], warnings: list[str]) -> Result:
    started = time.perf_counter()
    modules = dict(module.named_modules(remove_duplicate=False))
    parameters = [modules[table.names[0]].weight for table in plan.tables]
    compressed = copy_around(module, parameters)
    report = plan_report(plan, warnings)
    report["model_size_bytes_before"] = model_size_bytes(module)
    for table in plan.tables:
        fitted = fits[table.names[0]].train(modules[table.names[0]].training)
        compressed = place(compressed, table.names, table.heads, fitted)
    compressed = hub.adapt(compressed, [hub_entry(table) for table in plan.tables], hub.pruned_layout(module))
    report["model_size_bytes_after"] = model_size_bytes(compressed)
    report["seconds"] = sum(table.seconds for table in plan.tables) + time.perf_counter() - started
    return Result(compressed, plan, report)


def build_empty(model: nn.Module, tables: list[dict[str, Any]], dtype: torch.dtype) -> nn.Module:
    """Put empty replacements of the given layouts into a model, for weights that are loaded next.

    Args:
        model: holds plain embeddings where the tables are; any device, also meta.
        tables: entries of `hub_entry`.
        dtype: type of the rows.
    """
    for table in tables:
        device = next(model.get_submodule(table["names"][0]).parameters()).device
        model = place(
            model,
            table["names"],
            table["heads"],
            embedding_from_spec(table["spec"], dtype=dtype, device=device),
        )
    return model


def place(model: nn.Module, names: list[str], heads: list[str], embedding: CompressedEmbedding) -> nn.Module:
    """Put an embedding, and heads tied to it, into a model; return the model."""
    for name in names:
        model = replace_module(model, name, embedding)
    for name in heads:
        bias = model.get_submodule(name).bias
        model = replace_module(model, name, head_of(embedding, bias))  # type: ignore[arg-type]
    return model


def hub_entry(table: TablePlan) -> dict[str, Any]:
    """Return what a config.json has to say of one table."""
    return {"names": table.names, "heads": table.heads, "spec": table.spec}


def _table_report(table: TablePlan) -> dict[str, Any]:
    values = asdict(table)
    ranks = table.spec.get("ranks", [])
    return {
        "name": table.name,
        **{key: values[key] for key in values if key not in ("names", "spec", "sha256")},
        "keep_ratio": table.parameters_after / table.parameters_before,
        "relative_error": table.energy_lost**0.5,
        "weighted_relative_error": table.weighted_energy_lost**0.5,
        "n_subspaces": len(ranks),
        "n_bases": len(set(table.spec.get("groups", range(len(ranks))))),
        "ranks": ranks,
    }


def plan_report(plan: EmbeddingPlan, warnings: list[str]) -> dict[str, Any]:
    """Return what a plan predicts, in the form of a result's report."""
    tables = [_table_report(table) for table in plan.tables]
    sums = ("parameters_before", "parameters_after", "size_bytes_before", "size_bytes_after")
    report: dict[str, Any] = {key: sum(table[key] for table in tables) for key in sums}
    return {**report, "tables": tables, "recipe": plan.recipe, "warnings": warnings + recipe_warnings(plan.recipe)}
