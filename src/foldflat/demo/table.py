"""The demo's figures as one table and one sentence."""

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table

from foldflat.demo.comparison import UNCOMPRESSED, Row
from foldflat.report import megabytes

__all__ = ["comparison_table", "conclusion", "standard_error"]


def standard_error(share: float, count: int) -> float:
    """Return the standard error of a share measured on `count` independent examples."""
    return math.sqrt(share * (1 - share) / count)


def comparison_table(rows: Sequence[Row], title: str) -> Table:
    """Return one line for each method; accuracies in percent, before and after fine-tuning."""
    view = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True)
    for heading in ("method", "keep", "parameters", "bytes", "energy lost", "accuracy", "fine-tuned"):
        view.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in rows:
        view.add_row(
            row.method,
            "" if row.keep_ratio is None else f"{row.keep_ratio:.0%}",
            f"{row.parameters:,}",
            megabytes(row.size_bytes),
            f"{row.energy_lost:.2%}",
            f"{row.accuracy:.1%}",
            f"{row.accuracy_finetuned:.1%}",
        )
    return view


def conclusion(rows: Sequence[Row], count: int) -> str:
    """Say which method is best for whom, in one sentence that follows from the rows alone.

    For stored bytes: the smallest table that stays within one standard error of the uncompressed accuracy,
    both fine-tuned. For parameters: subspaces against svd at the smallest keep ratio.
    """
    reference = next(row for row in rows if row.method == UNCOMPRESSED)
    margin = standard_error(reference.accuracy_finetuned, count)
    near = [row for row in rows if row.accuracy_finetuned >= reference.accuracy_finetuned - margin]
    smallest = min(near, key=lambda row: row.size_bytes)
    return f"{_for_bytes(smallest, reference, margin)}; {_for_parameters(rows, margin)}."


def _for_bytes(smallest: Row, reference: Row, margin: float) -> str:
    whole = f"{reference.accuracy_finetuned:.1%}"
    if smallest.method == UNCOMPRESSED:
        return (
            f"If stored bytes are what counts, nothing here is good enough: every method ends more than one standard "
            f"error ({margin:.1%}) below the {whole} of the uncompressed table"
        )
    verb = "is" if smallest.keep_ratio else "rows are"
    return (
        f"If stored bytes are what counts, {_name(smallest)} {verb} the best choice here: "
        f"{megabytes(smallest.size_bytes)} and {smallest.accuracy_finetuned:.1%} after fine-tuning, against {whole} "
        f"uncompressed (standard error {margin:.1%})"
    )


def _for_parameters(rows: Sequence[Row], margin: float) -> str:
    """Compare subspaces and svd, for tables that have to stay floating-point and trainable."""
    low_rank = [row for row in rows if row.method in ("svd", "subspaces")]
    keep = min(row.keep_ratio for row in low_rank if row.keep_ratio is not None)
    better, worse = sorted(
        (row for row in low_rank if row.keep_ratio == keep), key=lambda row: row.accuracy_finetuned, reverse=True
    )
    whom = "if parameters count, or the table has to stay floating-point and trainable,"
    figures = f"{better.accuracy_finetuned:.1%} against {worse.accuracy_finetuned:.1%} of {worse.method}"
    if better.accuracy_finetuned - worse.accuracy_finetuned > margin:
        return f"{whom} take {_name(better)} ({figures})"
    return (
        f"{whom} {better.method} and {worse.method} at {keep:.0%} are equal within that error ({figures}, with "
        f"{better.energy_lost:.0%} against {worse.energy_lost:.0%} of the table's energy lost)"
    )


def _name(row: Row) -> str:
    return row.method if row.keep_ratio is None else f"{row.method} at {row.keep_ratio:.0%}"
