"""What a search tried, as a table and as a picture that needs no library."""

import math
import textwrap
from typing import Any
from xml.etree import ElementTree as ET

from rich.box import SIMPLE
from rich.table import Table

__all__ = ["candidates_table", "picture", "unmeasured"]

_WIDTH, _HEIGHT = 760, 528
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 150, 88, 60
_LEAST = 1e-6
_NOTICED = 1e-2
_COLOURS = {"stored": "#1f6fb4", "rival": "#b4641f", "winner": "#1a7f37", "line": "#888888", "text": "#222222"}
_FINE = (1, 2, 5)
_LINE, _LETTER = 16, 6.5
_CHARACTERS, _LINES = 110, 3
_BESIDE = ((9, -5), (9, 14), (9, -19), (9, 28))


def candidates_table(table: dict[str, Any]) -> Table:
    """Return one row for each candidate of a table that was measured, by size; what cannot be chosen is dim."""
    measured = [row for row in table["candidates"] if row["size_bytes"] is not None]
    weighted = any(row["energy_lost"] != row["weighted_energy_lost"] for row in measured)
    view = Table(title=f"Ways to store {table['name']}", caption=_caption(weighted), box=SIMPLE, pad_edge=False)
    for heading in ("candidate", "bytes", "smaller", "lost", *(["by weight"] if weighted else []), ""):
        left = heading in ("candidate", "")
        view.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for row in measured:
        is_winner = row["name"] == table["winner"]
        style = "bold" if is_winner else "dim" if row["curve"] or not row["fits"] else ""
        remark = "chosen" if is_winner else _remark(row)
        view.add_row(*_cells(row, table["shape"][0], weighted), remark, style=style)
    return view


def unmeasured(table: dict[str, Any]) -> list[str]:
    """Return a line for each candidate that was not measured, with the reason."""
    return [f"{row['name']}: {row['note']}" for row in table["candidates"] if row["size_bytes"] is None]


def _caption(weighted: bool) -> str:
    marks = "*: nothing measured is smaller and closer; ~: of some rows; rival: foldflat cannot store it"
    return f"lost: share of the energy; {marks}{'; by weight: with the row weights' if weighted else ''}"


def _cells(row: dict[str, Any], n: int, weighted: bool) -> list[str]:
    losses = [row["energy_lost"], row["weighted_energy_lost"]] if weighted else [row["energy_lost"]]
    about = "~" if row["rows_measured"] < n else ""
    return [
        f"{'*' if row['front'] else ' '} {row['name']}",
        f"{row['size_bytes']:,}",
        f"{row['times_smaller']:.1f} x",
        *(
            "" if lost is None else f"{about}{lost:.2%}" if lost >= _NOTICED else f"{about}{lost:.3%}"
            for lost in losses
        ),
    ]


def _remark(row: dict[str, Any]) -> str:
    kind = "" if row["storable"] else "rival"
    if row["curve"]:
        kind = "other size"
    elif not row["fits"]:
        kind = "not within"
    return kind


def picture(table: dict[str, Any]) -> str:
    """Return an SVG of what a search measured: bytes against weighted energy lost, both on logarithmic axes.

    The front is a line, the winner is filled, rivals are of another colour.
    """
    rows = [row for row in table["candidates"] if row["size_bytes"] is not None]
    axes = _Axes([row["size_bytes"] for row in rows], [max(_LEAST, row["weighted_energy_lost"]) for row in rows])
    svg = ET.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        width=str(_WIDTH),
        height=str(_HEIGHT),
        attrib={"font-family": "sans-serif", "font-size": "12"},
    )
    ET.SubElement(svg, "title").text = f"Ways to store {table['name']}"
    ET.SubElement(svg, "rect", width="100%", height="100%", fill="white")
    heading = f"{table['name']}: {table['reason'].split('. ')[0].rstrip('.')}"
    for i, words in enumerate(textwrap.wrap(heading, _CHARACTERS, max_lines=_LINES, placeholder=" ..")):
        _text(svg, 8, (i + 1) * _LINE + 4, words, size=13)
    axes.draw(svg)
    front = [axes.place(row) for row in rows if row["front"]]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in front)
    line = {"stroke-width": "1.5", "stroke-dasharray": "4 3"}
    ET.SubElement(svg, "polyline", points=points, fill="none", stroke=_COLOURS["line"], attrib=line)
    labels: list[tuple[float, float, float]] = []
    for row in rows:
        _mark(svg, row, axes.place(row), labels, is_winner=row["name"] == table["winner"])
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


class _Axes:
    """Place bytes and losses on logarithmic axes."""

    def __init__(self, sizes: list[int], losses: list[float]) -> None:
        self.x = math.log10(min(sizes) / 1.15), math.log10(max(sizes) * 1.15)
        self.y = math.log10(min(losses) / 1.5), math.log10(max(losses) * 1.5)

    def place(self, row: dict[str, Any]) -> tuple[float, float]:
        return self._across(row["size_bytes"]), self._down(max(_LEAST, row["weighted_energy_lost"]))

    def draw(self, svg: ET.Element) -> None:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        for value in _ticks(*self.x):
            x = self._across(value)
            _line(svg, x, _TOP, x, bottom)
            _text(svg, x, bottom + 18, _short(value), anchor="middle")
        for value in _ticks(*self.y):
            y = self._down(value)
            _line(svg, _LEFT, y, right, y)
            _text(svg, _LEFT - 8, y + 4, f"{100 * value:g}%", anchor="end")
        _text(svg, (_LEFT + right) / 2, _HEIGHT - 16, "bytes, all that is stored", anchor="middle")
        _text(svg, 8, _TOP - 14, "energy lost")

    def _across(self, size: float) -> float:
        return _LEFT + (math.log10(size) - self.x[0]) / (self.x[1] - self.x[0]) * (_WIDTH - _LEFT - _RIGHT)

    def _down(self, lost: float) -> float:
        return _TOP + (self.y[1] - math.log10(lost)) / (self.y[1] - self.y[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10, .. between two logarithms; powers of ten alone where they are many."""
    factors = _FINE if high - low < 3 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    return [f * 10.0**power for power in powers for f in factors if low <= math.log10(f * 10.0**power) <= high]


def _short(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size:g} B"


def _mark(
    svg: ET.Element,
    row: dict[str, Any],
    place: tuple[float, float],
    labels: list[tuple[float, float, float]],
    *,
    is_winner: bool,
) -> None:
    colour = _COLOURS["winner" if is_winner else "stored" if row["storable"] else "rival"]
    x, y = place
    radius = "6" if is_winner else "2.5" if row["curve"] else "4"
    fill = colour if is_winner or row["curve"] else "white"
    ET.SubElement(
        svg, "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, fill=fill, stroke=colour, attrib={"stroke-width": "2"}
    )
    if not row["curve"]:
        labels.append(_free((x, y), row["name"], labels))
        _text(svg, *labels[-1][:2], row["name"], colour=colour)


def _free(
    place: tuple[float, float], words: str, taken: list[tuple[float, float, float]]
) -> tuple[float, float, float]:
    """Return where a label begins and its width: the first place beside a mark where no other label is."""
    width = _LETTER * len(words)
    places = [(place[0] + right, place[1] + down, width) for right, down in _BESIDE]
    apart = (
        (x, y, w)
        for x, y, w in places
        if all(abs(y - b) >= _LINE - 3 or x + w < a or a + other < x for a, b, other in taken)
    )
    return next(apart, places[0])


def _line(svg: ET.Element, x1: float, y1: float, x2: float, y2: float) -> None:
    places = {name: f"{value:.1f}" for name, value in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))}
    ET.SubElement(svg, "line", stroke="#e4e4e4", attrib=places)


def _text(
    svg: ET.Element,
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    size: int = 12,
    colour: str = _COLOURS["text"],
) -> None:
    attributes = {"text-anchor": anchor, "font-size": str(size), "fill": colour}
    ET.SubElement(svg, "text", x=f"{x:.1f}", y=f"{y:.1f}", attrib=attributes).text = words
