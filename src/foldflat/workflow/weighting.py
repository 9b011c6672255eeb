"""Row weights counted in text, for models and tables on disk."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np

from foldflat.embedding.fitting import Watch
from foldflat.embedding.plan import EmbeddingPlan
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.embedding.weights import TokenCounts
from foldflat.errors import DataError, RecipeError
from foldflat.filters.plan import FilterPlan
from foldflat.model.hub.reading import transformer_module_path
from foldflat.workflow.table_files import TABLE_SUFFIXES

__all__ = ["TextSample", "add_counts", "count_text", "save_counts", "weighted_by_text"]

Asked = EmbeddingRecipe | EmbeddingPlan


@dataclasses.dataclass(frozen=True)
class TextSample:
    """Say in which text a model's tokens are counted.

    Args:
        sources: files, folders or data sets, as `foldflat.evaluate.Texts` takes them; none for no counting.
        column: of rows; default "text", or every column of strings.
        limit: documents of each source to read at most.
        tokenizer: folder or hub name of a model that has it; default the model's own, or what lies beside a table.
        counts_file: .npy to save the counts to, one number a row.

    Raises:
        RecipeError: something is given that needs text, without any; a file that is no .npy, or in no folder.
    """

    sources: tuple[str, ...] = ()
    column: str | None = None
    limit: int | None = None
    tokenizer: str | None = None
    counts_file: Path | None = None

    def __post_init__(self) -> None:
        options = {
            "--text-column": self.column,
            "--text-limit": self.limit,
            "--tokenizer": self.tokenizer,
            "--save-counts": self.counts_file,
        }
        given = [name for name, value in options.items() if value is not None]
        if given and not self.sources:
            raise RecipeError(f"{given[0]} is given without text; hint: `--text` with a file or data set")
        if self.counts_file is not None and self.counts_file.suffix != ".npy":
            raise RecipeError(f"the counts file is {str(self.counts_file)!r}; hint: name it .npy")
        if self.counts_file is not None and not self.counts_file.expanduser().parent.is_dir():
            folder = self.counts_file.parent
            raise RecipeError(
                f"the counts file is to be written, but folder {folder} does not exist; hint: make it first"
            )


@dataclasses.dataclass(frozen=True)
class TextCounts(TokenCounts):
    """Hold token counts and what was read for them: file or data set -> columns, () for plain text."""

    columns: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    documents: int = 0


@overload
def weighted_by_text(asked: EmbeddingRecipe, sample: TextSample) -> EmbeddingRecipe: ...
@overload
def weighted_by_text(asked: Asked, sample: TextSample) -> Asked: ...
def weighted_by_text(asked: Asked, sample: TextSample) -> Asked:
    """Return the recipe with row weights that are counted, where there is text; a plan has to say so itself.

    Raises:
        RecipeError: the row weights are others.
    """
    if not sample.sources:
        return asked
    if isinstance(asked, EmbeddingRecipe) and asked.row_weights is None:
        return dataclasses.replace(asked, row_weights="auto")
    given = (asked.to_dict() if isinstance(asked, EmbeddingRecipe) else asked.recipe)["row_weights"]
    if given != "auto":
        raise RecipeError(f"text is given to count tokens in, but the row weights are {given}; hint: leave one out")
    return asked


def count_text(
    model: str, sample: TextSample, *, watch: Watch | None = None, without: Collection[str] = ()
) -> TextCounts | None:
    """Count the tokens of a sample by the tokenizer of a model on disk or of the hub; None without text.

    Args:
        model: whose tokenizer it is, unless the sample names another.
        sample: what to count in.
        watch: called with a line of progress.
        without: texts to leave out, but for space around them.

    Raises:
        ModelNotFoundError, DataError, MissingDependencyError: see foldflat.evaluate.
    """
    if not sample.sources:
        return None
    from foldflat.evaluate import Texts, count_tokens

    sources = [Texts(source, column=sample.column, limit=sample.limit) for source in sample.sources]
    texts = _others((text for source in sources for text in source), without)
    counted = count_tokens(texts, _tokenizer(model, sample), watch=watch)
    columns = {label: names for source in sources for label, names in source.columns.items()}
    own = {field.name: getattr(counted, field.name) for field in dataclasses.fields(counted)}
    return TextCounts(**own, columns=columns, documents=sum(source.documents for source in sources))


def _others(texts: Iterable[str], without: Collection[str]) -> Iterator[str]:
    left_out, kept = {text.strip() for text in without}, not without
    for text in texts:
        if text.strip() not in left_out:
            kept = True
            yield text
    if not kept:
        raise DataError("every text to count tokens in is among those to certify with\nhint: `--text` with others")


def add_counts(report: dict[str, Any], counts: Any) -> None:
    """Add to a report what was counted, if tokens were, and what speaks against it."""
    if not isinstance(counts, TextCounts):
        return
    table = report["tables"][0]
    n = table["shape"][0]
    report["token_counts"] = {
        "tokens": counts.tokens,
        "documents": counts.documents,
        "texts": counts.texts,
        "rows": n,
        "rows_seen": int((counts.counts > 0).sum()),
        "unknown_share": counts.unknown_share,
        "columns": {label: list(names) for label, names in counts.columns.items()},
    }
    report["warnings"] += counts.warnings(n, table["name"])


def save_counts(sample: TextSample, counts: TokenCounts | None, plan: EmbeddingPlan | FilterPlan) -> None:
    """Write the counts where the sample says, one number for each row of the plan's table.

    Raises:
        DataError: the tables of the plan have different numbers of rows.
    """
    if counts is None or sample.counts_file is None or not isinstance(plan, EmbeddingPlan):
        return
    rows = {table.shape[0] for table in plan.tables}
    if len(rows) > 1:
        raise DataError(f"the tables have {sorted(rows)} rows; hint: `--include` one, to save counts for it")
    file = sample.counts_file.expanduser()
    beside = file.with_name(f".{file.name}.part.npy")
    np.save(beside, counts.for_rows(rows.pop(), plan.tables[0].name).numpy())
    beside.replace(file)


def _tokenizer(model: str, sample: TextSample) -> Any:
    from foldflat.evaluate import load_tokenizer, tokenizer_in

    if sample.tokenizer is not None:
        place = Path(sample.tokenizer).expanduser()
        return tokenizer_in(place) if place.is_dir() else load_tokenizer(sample.tokenizer)
    path = Path(model)
    if path.is_dir():
        return load_tokenizer(path / (transformer_module_path(path) or ""))
    file = Path(model.rpartition(":")[0]) if not path.is_file() and ":" in model else path
    return tokenizer_in(file.parent) if file.suffix in TABLE_SUFFIXES else load_tokenizer(model)
