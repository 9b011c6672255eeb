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
    view = Table(title=title, box=box.SIMPLE_HEAD)
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
    if smallest.method == UNCOMPRESSED:
        return (
            f"For whom stored bytes count nothing here is good enough: every method ends more than one standard "
            f"error ({margin:.1%}) below the uncompressed {reference.accuracy_finetuned:.1%}"
        )
    return (
        f"For whom stored bytes count {_name(smallest)} is the best choice here "
        f"({megabytes(smallest.size_bytes)}, {smallest.accuracy_finetuned:.1%} after fine-tuning against "
        f"{reference.accuracy_finetuned:.1%} uncompressed, standard error {margin:.1%})"
    )


def _for_parameters(rows: Sequence[Row], margin: float) -> str:
    """Compare subspaces and svd where the table has to stay floating-point and trainable."""
    low_rank = [row for row in rows if row.method in ("svd", "subspaces") and row.keep_ratio is not None]
    keep = min(row.keep_ratio or 1.0 for row in low_rank)
    svd, subspaces = (
        next(row for row in low_rank if row.method == method and row.keep_ratio == keep)
        for method in ("svd", "subspaces")
    )
    better, worse = sorted((svd, subspaces), key=lambda row: -row.accuracy_finetuned)
    gap = better.accuracy_finetuned - worse.accuracy_finetuned
    for_whom = "for whom parameters count, or a table that stays floating-point and trainable,"
    if gap <= margin:
        return (
            f"{for_whom} subspaces and svd at {keep:.0%} are equal within the error "
            f"({subspaces.accuracy_finetuned:.1%} and {svd.accuracy_finetuned:.1%}), and subspaces lose {subspaces.energy_lost:.0%} of the energy against "
            f"{svd.energy_lost:.0%}"
        )
    return (
        f"{for_whom} {better.method} at {keep:.0%} is the better ({better.accuracy_finetuned:.1%} against "
        f"{worse.accuracy_finetuned:.1%} of {worse.method})"
    )


def _name(row: Row) -> str:
    return f"{row.method} rows" if row.keep_ratio is None else f"{row.method} at {row.keep_ratio:.0%}"
