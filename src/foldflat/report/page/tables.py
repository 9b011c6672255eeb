"""Tables without a form yet: made once from the document, shown by HTML and Markdown alike."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Cell", "Rows", "Table", "changes_of", "table_of"]

Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """Hold a cell: text, a second line, tokens in place of text, and whether it stands out."""

    text: str = ""
    note: str = ""
    tokens: tuple[str, ...] = ()
    strong: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Hold a table.

    Attributes:
        caption: what it shows, and how it is to be read.
        headings: of the columns.
        rows: cells of each row; the first names it.
        texts: number of leading columns that hold words rather than numbers.
        first: numbers of the rows above which a line separates.
        quiet: numbers of the rows that stand apart.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    texts: int = 1
    first: frozenset[int] = frozenset()
    quiet: frozenset[int] = frozenset()


def table_of(caption: str, headings: Sequence[str], rows: Iterable[Sequence[Cell | str]], **more: Any) -> Table:
    """Return a table of cells or plain texts."""
    cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    return Table(caption, tuple(headings), cells, **more)


def changes_of(values: Iterable[Any]) -> frozenset[int]:
    """Return the positions, but the first, where a value differs from the one before."""
    found = list(values)
    return frozenset(i for i in range(1, len(found)) if found[i] != found[i - 1])
