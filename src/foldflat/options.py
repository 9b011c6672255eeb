"""The options that several commands share, and those of a recipe."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import RecipeError
from foldflat.filters.recipe import METHODS, FilterRecipe
from foldflat.workflow.settings import parse_count, parse_size
from foldflat.workflow.weighting import TextSample

if TYPE_CHECKING:  # evaluates models, which takes long to import
    from foldflat.workflow.certificates import Promise

__all__ = [
    "AsJson",
    "Confidence",
    "Data",
    "LedgerFile",
    "Model",
    "Network",
    "Output",
    "Overwrite",
    "Risk",
    "Seed",
    "Task",
    "filter_recipe_from_options",
    "promise_from_options",
    "recipe_from_options",
    "refuse_without_promise",
    "takes_filter_recipe",
    "takes_promise",
    "takes_recipe",
    "takes_text",
    "text_from_options",
]

Model = Annotated[
    str, typer.Argument(help="A folder, a hub name, FILE.safetensors[:TENSOR] or FILE.npy; FILE may be a pattern.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder that exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.")]
Task = Annotated[str, typer.Option(help="cola, sst2, mrpc, stsb, rte, wnli, qnli, mnli or qqp.")]
Data = Annotated[str, typer.Option(help="Folder or hub name with GLUE's tasks, such as nyu-mll/glue.")]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        help="Search for the smallest model that can be promised to lose at most so much on held-out examples: 0.005 "
        "is half a point of accuracy."
    ),
]
Confidence = Annotated[float, typer.Option(help="That the promise holds.")]
PromisedConfidence = Annotated[
    float | None, typer.Option("--confidence", help="That the promise of --max-drop holds. Default 0.95.")
]
Risk = Annotated[
    str | None,
    typer.Option(
        help="accuracy-drop or disagreement; stsb: score-drop; sentence encoders: cosine-error or neighbours-lost. "
        "Default the first that fits."
    ),
]
LedgerFile = Annotated[
    str | None, typer.Option("--ledger", help="File that counts uses of examples. Default: in the user's state folder.")
]
Keep = Annotated[float | None, typer.Option("--keep", help="Parameters to keep, in (0, 1]. Default 0.6.")]
Budget = Annotated[str | None, typer.Option(help="Stored bytes of the tables together: 8000000, 8MB, 8MiB.")]
MaxError = Annotated[float | None, typer.Option(help="Share of energy that may be lost.")]
Method = Annotated[
    str | None,
    typer.Option(
        help="subspaces, svd, int8, int4, or auto: all of them and mixed, the best taken. Default: auto where only "
        "--budget or --max-error is given, else subspaces."
    ),
]
Subspaces = Annotated[str, typer.Option("--subspaces", "-k", help='Number of subspaces, or "auto".')]
EqualRanks = Annotated[
    bool, typer.Option("--equal-ranks", help="Give every subspace the same rank, as the paper does.")
]
Coefficients = Annotated[
    str,
    typer.Option(
        help='Type of coefficients: "same", float32, bfloat16, int8, int4; mixed (trellis codes) with --budget.'
    ),
]
RowWeights = Annotated[
    str | None,
    typer.Option(help='Token counts: .npy with one per row, JSON token -> count, or "auto": counted in --text.'),
]
Text = Annotated[
    list[str] | None,
    typer.Option(
        help="Count tokens in it, for --row-weights: plain text, .jsonl, .csv, .parquet, a folder of them, or data as "
        "NAME[:CONFIGURATION[:SPLIT]]; may be repeated."
    ),
]
TextColumn = Annotated[str | None, typer.Option(help='Column of the text. Default "text", or all of strings.')]
TextLimit = Annotated[int | None, typer.Option(help="Lines or rows to read of each --text. Default all.")]
Tokenizer = Annotated[str | None, typer.Option(help="Model with the tokenizer. Default MODEL, or beside its file.")]
SaveCounts = Annotated[Path | None, typer.Option(help="Write the counts to this .npy, for --row-weights.")]
Include = Annotated[list[str] | None, typer.Option(help="Pattern of embeddings to replace; may be repeated.")]
Network = Annotated[str, typer.Argument(help="package.module:function that builds a network, a folder, or a hub name.")]
KeepNetwork = Annotated[
    float | None, typer.Option("--keep", help="Part of the whole network to keep, in (0, 1]. Default 0.5.")
]
Measure = Annotated[str, typer.Option(help="What is counted: parameters, macs or bytes.")]
FilterMethod = Annotated[str, typer.Option("--method", help=f"{', '.join(METHODS)}.")]
Variant = Annotated[str, typer.Option(help="Of pfp: deterministic, random or hybrid.")]
Allocation = Annotated[str, typer.Option(help="Shares of layers: auto, epsilon, error, uniform or threshold.")]
Delta = Annotated[float | None, typer.Option(help="Probability with which pfp's bound may fail.")]
RoundTo = Annotated[int, typer.Option(help="Channels of a layer stay a multiple of this.")]
Compensate = Annotated[bool, typer.Option("--compensate", help="Add what removed channels give on average.")]
Refit = Annotated[bool | None, typer.Option("--refit/--no-refit", help="Fit the weights that read what stays.")]
ExcludeLayers = Annotated[list[str] | None, typer.Option("--exclude", help="Pattern of layers to leave alone.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Pattern of embeddings to leave alone; may be repeated.")]


def recipe_from_options(
    keep: Keep = None,
    budget: Budget = None,
    max_error: MaxError = None,
    method: Method = None,
    subspaces: Subspaces = "auto",
    equal_ranks: EqualRanks = False,
    coefficients: Coefficients = "same",
    row_weights: RowWeights = None,
    include: Include = None,
    exclude: Exclude = None,
    seed: Seed = 0,
    context: typer.Context = None,  # type: ignore[assignment]
) -> EmbeddingRecipe:
    """Return the recipe that the options of `plan` and `compress` ask for.

    Bytes, an error or a promise, and nothing about subspaces, leave the method open.
    """
    is_open = subspaces == "auto" and not equal_ranks and coefficients == "same"
    if method is None:
        by_bytes = budget is not None or max_error is not None or (keep is None and _is_given(context, "max_drop"))
        method = "auto" if is_open and by_bytes else "subspaces"
    return EmbeddingRecipe(
        keep_ratio=keep,
        budget_bytes=None if budget is None else parse_size(budget),
        max_error=max_error,
        method=method,
        n_subspaces="auto" if subspaces == "auto" else parse_count(subspaces),
        free_ranks=not equal_ranks,
        row_weights=row_weights,
        coefficients=coefficients,
        include=tuple(include) if include else None,
        exclude=tuple(exclude or ()),
        seed=seed,
    )


def filter_recipe_from_options(
    keep: KeepNetwork = None,
    measure: Measure = "parameters",
    method: FilterMethod = FilterRecipe.method,
    variant: Variant = "deterministic",
    allocation: Allocation = "auto",
    delta: Delta = None,
    round_to: RoundTo = 1,
    compensate: Compensate = False,
    refit: Refit = None,
    exclude: ExcludeLayers = None,
    seed: Seed = 0,
    context: typer.Context = None,  # type: ignore[assignment]
) -> FilterRecipe:
    """Return the recipe that the options of `prune` ask for; a search for a promise begins near the whole network."""
    if keep is None:
        keep = 0.98 if _is_given(context, "max_drop") else FilterRecipe.keep_ratio
    return FilterRecipe(
        keep_ratio=keep,
        measure=measure,
        method=method,
        variant=variant,
        allocation=allocation,
        delta=delta,
        round_to=round_to,
        compensate=compensate,
        refit=refit,
        exclude=tuple(exclude or ()),
        seed=seed,
    )


def text_from_options(
    text: Text = None,
    text_column: TextColumn = None,
    text_limit: TextLimit = None,
    tokenizer: Tokenizer = None,
    save_counts: SaveCounts = None,
) -> TextSample:
    """Return the text in which `plan` and `compress` count tokens."""
    return TextSample(tuple(text or ()), text_column, text_limit, tokenizer, save_counts)


def promise_from_options(
    max_drop: MaxDrop = None, confidence: PromisedConfidence = None, risk: Risk = None, ledger: LedgerFile = None
) -> "Promise | None":
    """Return the promise that the options of `compress` and `prune` ask for; None without --max-drop."""
    from foldflat.workflow.certificates import Promise

    if max_drop is not None:
        return Promise(max_drop, 0.95 if confidence is None else confidence, risk, ledger)
    refuse_without_promise({"--confidence": confidence, "--risk": risk, "--ledger": ledger})
    return None


def refuse_without_promise(options: dict[str, Any]) -> None:
    """Raise RecipeError for an option that means nothing without --max-drop."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise RecipeError(f"{given[0]} is given, but nothing is promised\nhint: give --max-drop")


def takes_promise(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a Promise in place of its parameter `promise`."""
    return _with_options(command, "promise", promise_from_options)


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of an EmbeddingRecipe in place of its parameter `recipe`."""
    return _with_options(command, "recipe", recipe_from_options)


def takes_text(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a TextSample in place of its parameter `sample`."""
    return _with_options(command, "sample", text_from_options)


def takes_filter_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a FilterRecipe in place of its parameter `recipe`."""
    return _with_options(command, "recipe", filter_recipe_from_options)


def _is_given(context: typer.Context | None, option: str) -> bool:
    """Say whether a command was given an option, by the name of its parameter."""
    return context is not None and context.params.get(option) is not None


def _with_options(command: Callable[..., None], parameter: str, build: Callable[..., Any]) -> Callable[..., None]:
    options = inspect.signature(build).parameters
    own = [p for p in inspect.signature(command).parameters.values() if p.name != parameter]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        command(**{parameter: build(**{name: given.pop(name) for name in options})}, **given)

    required = [p for p in own if p.default is p.empty]
    optional = [p for p in own if p.default is not p.empty]
    wrapped.__signature__ = inspect.Signature([*required, *options.values(), *optional])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in (*required, *options.values(), *optional)}
    return wrapped
