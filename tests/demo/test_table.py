"""What the demo concludes follows from its rows, in whoever's favour they are."""

import pytest
from rich.console import Console

from foldflat.demo.comparison import Row
from foldflat.demo.table import comparison_table, conclusion, standard_error

COUNT = 1600  # a standard error of 1 % at 80 %


def row(method: str, keep: float | None, size: int, finetuned: float, energy: float = 0.1) -> Row:
    """Return one line of the demo's table."""
    return Row(
        method=method,
        keep_ratio=keep,
        n_subspaces=0,
        parameters=547_520,
        size_bytes=size,
        energy_lost=energy,
        accuracy=0.7,
        accuracy_finetuned=finetuned,
        compress_seconds=0.0,
        finetune_seconds=0.0,
    )


def rows(*, int8: float, svd: float, subspaces: float) -> list[Row]:
    """Return a table with the given accuracies after fine-tuning."""
    return [
        row("uncompressed", 1.0, 2_190_080, 0.80, energy=0.0),
        row("svd", 0.6, 1_300_000, 0.79),
        row("subspaces", 0.6, 1_300_000, 0.79),
        row("svd", 0.3, 660_000, svd, energy=0.5),
        row("subspaces", 0.3, 670_000, subspaces, energy=0.2),
        row("int8", None, 580_000, int8, energy=0.0),
    ]


def test_standard_error_of_a_share() -> None:
    """The square root of p (1 - p) / n."""
    assert standard_error(0.8, COUNT) == pytest.approx(0.01)


def test_says_so_where_int8_is_the_better_choice() -> None:
    """The smallest table within one standard error of the uncompressed accuracy is recommended for bytes."""
    text = conclusion(rows(int8=0.795, svd=0.75, subspaces=0.77), COUNT)
    assert "int8 rows are the best choice here: 0.58 MB and 79.5%" in text
    assert "take subspaces at 30% (77.0% against 75.0% of svd)" in text


def test_recommends_nothing_that_lost_too_much() -> None:
    """Below one standard error a method is not recommended, however small."""
    text = conclusion(rows(int8=0.70, svd=0.795, subspaces=0.79), COUNT)
    assert "svd at 30% is the best choice here: 0.66 MB" in text
    worse = [row("uncompressed", 1.0, 2_190_080, 0.9), *rows(int8=0.7, svd=0.7, subspaces=0.7)[1:]]
    assert "nothing here is good enough" in conclusion(worse, COUNT)


def test_says_so_where_svd_is_better_or_equal() -> None:
    """A difference within the error is called equal, and a win of svd is svd's."""
    assert "take svd at 30% (79.0% against 75.0% of subspaces)" in conclusion(
        rows(int8=0.8, svd=0.79, subspaces=0.75), COUNT
    )
    equal = conclusion(rows(int8=0.8, svd=0.775, subspaces=0.77), COUNT)
    assert "svd and subspaces at 30% are equal within that error (77.5% against 77.0% of subspaces" in equal
    assert "with 50% against 20% of the table's energy lost" in equal


def test_table_fits_a_terminal_of_80_columns() -> None:
    """No heading or number is cut."""
    console = Console(width=80, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(comparison_table(rows(int8=0.8, svd=0.7, subspaces=0.75), "title"))
    text = captured.get()
    assert "…" not in text
    for word in ("uncompressed", "energy lost", "fine-tuned", "547,520", "2.19 MB", "80.0%", "60%"):
        assert word in text
