"""Bare tables of any size: read from files chunk by chunk, fitted and encoded on one process or several."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from foldflat.cluster.distributed import Team
from foldflat.cluster.source import RowSource
from foldflat.cluster.streaming import JUDGE_ROWS, SAMPLE_ROWS, fit_source
from foldflat.cluster.sweep import Block, chunk_rows
from foldflat.embedding.base import check_finite
from foldflat.embedding.fitting import Fitted, Table, Watch, describe, settings_for
from foldflat.embedding.plan import EmbeddingPlan, table_plan
from foldflat.embedding.recipe import INTEGER_COEFFICIENTS, EmbeddingRecipe, stored_dtype
from foldflat.embedding.streamed import encode
from foldflat.embedding.weights import resolve_row_weights
from foldflat.errors import CheckpointError, DataError, FoldflatError, RecipeError
from foldflat.pipeline import Result, plan_report
from foldflat.workflow.weighting import add_counts

__all__ = ["Part", "compress_rows", "is_streamed"]


class Part:
    """Show the rows of one rank: an even share of consecutive chunks, where there are enough of those."""

    def __init__(self, rows: RowSource, team: Team) -> None:
        n, d = rows.shape
        self._rows = rows
        step = chunk_rows(d) if n >= team.size * chunk_rows(d) else 1
        chunks = -(-n // step)
        self._first, self._stop = (min(n, step * (chunks * rank // team.size)) for rank in (team.rank, team.rank + 1))
        self.dtype, self.device = rows.dtype, rows.device

    @property
    def span(self) -> slice:
        """Return which rows of the table these are."""
        return slice(self._first, self._stop)

    @property
    def shape(self) -> torch.Size:
        """Return (n, d)."""
        return torch.Size((self._stop - self._first, self._rows.shape[1]))

    def __getitem__(self, rows: slice | torch.Tensor, /) -> torch.Tensor:
        """Return (b, d): consecutive rows, or those at given positions (b,)."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self.shape[0])
            return self._rows[self._first + start : self._first + stop]
        return self._rows[rows + self._first]


def _check_every_part(part: Part, n: int, team: Team) -> None:
    """Raise DataError on every rank where one has numbers that are not finite."""
    found: DataError | None = None
    try:
        check_finite(part, "", first=part.span.start, n=n)
    except DataError as error:
        found = error
    failures = int(team.total(torch.tensor(int(found is not None))))
    if found is not None:
        raise found
    if failures:
        raise DataError("another rank found numbers that are not finite; its message names the row")


@contextmanager
def _scratch(target: Path, team: Team) -> Iterator[Path]:
    """Give rank 0 a folder beside the target for files that do not outlive the block."""
    if team.rank:
        yield target.parent
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", dir=target.parent, ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder)
    except FoldflatError:
        raise
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written ({error}); the fit is kept in its checkpoint") from error


def is_streamed(rows: RowSource, recipe: EmbeddingRecipe, team: Team) -> bool:
    """Return whether a table is fitted from its file: subspaces of a large one, or several processes.

    Raises:
        RecipeError: several processes were asked to do what one does in memory.
    """
    in_memory = recipe.coefficients in (*INTEGER_COEFFICIENTS, "mixed")
    fits = recipe.method in ("subspaces", "svd") and recipe.max_error is None and not in_memory
    if team.size > 1 and not fits:
        raise RecipeError(
            f"{team.size} processes cannot share method {recipe.method!r}"
            + (" with `max_error`" if recipe.max_error is not None else "")
            + (f' with `coefficients` "{recipe.coefficients}"' if in_memory else "")
            + "; hint: run one process, or use 'subspaces' or 'svd' with a keep ratio or a budget"
            + (' and `coefficients` "bfloat16"' if in_memory else "")
        )
    return fits and (team.size > 1 or rows.shape[0] > SAMPLE_ROWS + JUDGE_ROWS)


def compress_rows(
    rows: RowSource,
    recipe: EmbeddingRecipe,
    save: Callable[[Result], None],
    target: str | os.PathLike[str],
    *,
    team: Team,
    checkpoint: str | os.PathLike[str] | None = None,
    calibration: Any = None,
    watch: Watch | None = None,
) -> Result | None:
    """Compress a table that is read chunk by chunk, and save it; return the result on rank 0, elsewhere None.

    Args:
        rows: the whole table (n, d); each rank reads its share.
        recipe: what is asked; method "subspaces" or "svd".
        save: writes the result, whose numbers are in files that go when it returns.
        target: folder that `save` writes, for its place on disk.
        team: the processes that share the work.
        checkpoint: file that keeps the state of the fit; default beside `target`, deleted at the end.
        calibration: TokenCounts or input ids, where the recipe counts tokens; the same on every rank.
        watch: called on rank 0 with a line of progress.

    Raises:
        RecipeError, BudgetError, DataError, CheckpointError, TeamError: see foldflat.errors.
    """
    started = time.perf_counter()
    n, d = rows.shape
    part = Part(rows, team)
    _check_every_part(part, n, team)
    weights = resolve_row_weights(recipe.row_weights, n, name="table", calibration=calibration)
    stored = stored_dtype(recipe, rows.dtype)
    table = Table("", torch.empty(n, d, dtype=rows.dtype, device="meta"), None, weights, recipe.budget_bytes)
    settings = settings_for(table, recipe)
    block = Block(part, None if weights is None else weights[part.span], team)
    place = Path(target).absolute()
    state = place.with_name(f"{place.name}.checkpoint.safetensors") if checkpoint is None else Path(checkpoint)
    found = fit_source(
        part,
        block.weights,
        settings,
        team=team,
        checkpoint=state,
        watch=None if watch is None else lambda trial: watch(describe("table", trial)),
    )
    if watch is not None:
        watch("table: encoding")
    with _scratch(place, team) as folder:
        encoded = encode(block, found, stored=stored, folder=folder)
        if encoded.module is None:
            return None
        fitted = Fitted(encoded.module, recipe.method, found.trials, found.converged, time.perf_counter() - started)
        entry = table_plan(rows, fitted, encoded.error, names=[""], heads=[])
        plan = EmbeddingPlan(recipe.to_dict(), [entry])
        report = plan_report(plan, [])
        report["model_size_bytes_before"] = entry.size_bytes_before
        report["model_size_bytes_after"] = entry.size_bytes_after
        report["seconds"] = entry.seconds
        add_counts(report, calibration)
        result = Result(encoded.module, plan, report)
        save(result)
    state.unlink(missing_ok=True)
    return result
