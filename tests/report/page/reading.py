"""Read a page back: its tables by caption, its figures, what it refers to."""

import html
import re
from html.parser import HTMLParser

Rows = list[list[str]]


class Page(HTMLParser):
    """Hold what a page consists of.

    Attributes:
        tables: caption -> rows, headings first; the lines of a cell are joined by " / ".
        strong: texts in bold.
        references: values of src, href and the like.
        elements: name -> how often.
        handlers: attributes that run scripts.
        methods: names of methods of the lines of each chart, in order of the charts.
        texts: the text outside of tables.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, Rows] = {}
        self.strong: list[str] = []
        self.references: list[str] = []
        self.elements: dict[str, int] = {}
        self.handlers: list[str] = []
        self.methods: list[list[str]] = []
        self.texts = ""
        self._open: list[str] = []
        self._rows: Rows = []
        self._caption = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements[tag] = self.elements.get(tag, 0) + 1
        self.references += [
            values[name] or "" for name in ("src", "href", "xlink:href", "data", "action") if name in values
        ]
        self.handlers += [name for name in values if name.startswith("on")]
        if tag == "svg" and values.get("role") == "img":
            self.methods.append([])
        if "data-method" in values and tag == "g":
            self.methods[-1].append(values["data-method"] or "")
        if tag in ("meta", "link", "wbr"):
            return
        self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "small":
            self._rows[-1][-1] += " / "
        elif tag == "strong":
            self.strong.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"
        if tag == "table":
            caption = " ".join(self._caption.split())
            assert caption not in self.tables, f"two tables are called {caption!r}"
            self.tables[caption] = [[" ".join(cell.split()) for cell in row] for row in self._rows]

    def handle_data(self, data: str) -> None:
        if "table" not in self._open:
            self.texts += data if "style" not in self._open and "script" not in self._open else ""
            return
        if "caption" in self._open:
            self._caption += data
        elif "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data
        if "strong" in self._open:
            self.strong[-1] += data

    def table(self, start: str) -> Rows:
        """Return the table whose caption starts so."""
        (found,) = (rows for caption, rows in self.tables.items() if caption.startswith(start))
        return found

    def cell(self, start: str, row: tuple[str, ...], column: str) -> str:
        """Return the cell of a table in the row that starts so, under a heading."""
        headings, *rows = self.table(start)
        (found,) = (cells for cells in rows if tuple(cells[: len(row)]) == row)
        return found[headings.index(column)]


def markdown_tables(text: str) -> dict[str, Rows]:
    """Return the tables of Markdown by caption, as `Page` has those of HTML."""
    found: dict[str, Rows] = {}
    caption = ""
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("| "):
            rows = [
                [_plain(cell) for cell in line[2:-2].split(" | ")] for line in lines if not line.startswith("| ---")
            ]
            found[caption] = rows
        caption = _plain(" ".join(lines))
    return found


def _plain(cell: str) -> str:
    text = re.sub("</?code>", "", cell.replace("<br>", " / ").removeprefix("**").removesuffix("**"))
    return " ".join(html.unescape(text).split())
