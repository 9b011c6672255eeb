"""Charts as inline SVG: drawn here, coloured by the page's style sheet, named for those who do not see them."""

import dataclasses
import math
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from foldflat.report.page.styles import Style, marker, style_of
from foldflat.report.page.ticks import linear_ticks, log_ticks

__all__ = [
    "LARGE",
    "SMALL",
    "Axis",
    "Line",
    "Point",
    "Reference",
    "category_axis",
    "line_chart",
    "share_axis",
    "swatch",
]

LARGE, SMALL = (400, 280), (300, 205)
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 26, 40
_APART = 24
_CAP = 3


@dataclasses.dataclass(frozen=True)
class Point:
    """Hold a point of a line: its deviation up and down, None for one seed, and what it says when pointed at."""

    x: float
    y: float
    deviation: float | None
    words: str


@dataclasses.dataclass(frozen=True)
class Line:
    """Hold the points of a method in the order of x."""

    method: str
    points: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class Reference:
    """Hold a horizontal line with a band of one deviation around it."""

    y: float
    deviation: float | None
    words: str


@dataclasses.dataclass(frozen=True)
class Axis:
    """Hold an axis: limits, ticks with their labels, and what it measures."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    words: str
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value is, 0 at the low end and 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def share_axis(values: Sequence[float], words: str) -> Axis:
    """Return a logarithmic axis of shares that ends at 1 or above."""
    low, high = min([*values, 0.9]) / 1.12, max([*values, 1.0]) * 1.06
    ticks = log_ticks(low, high)
    return Axis(low, high, tuple((value, f"{100 * value:g}\N{NO-BREAK SPACE}%") for value in ticks), words, log=True)


def category_axis(names: Sequence[str], words: str) -> Axis:
    """Return an axis of names at 0, 1, 2, .."""
    return Axis(-0.4, len(names) - 0.6, tuple((float(i), name) for i, name in enumerate(names)), words)


def _value_axis(lines: Sequence[Line], reference: Reference | None, words: str, *, from_zero: bool) -> Axis:
    ends = [end for line in lines for point in line.points for end in _ends(point.y, point.deviation)]
    if reference is not None:
        ends += _ends(reference.y, reference.deviation)
    low, high = (0.0 if from_zero else min(ends)), max(ends)
    room = 0.07 * (high - low) or 1.0
    low, high = (low if from_zero else low - room), high + room
    return Axis(low, high, tuple((value, _signed(value)) for value in linear_ticks(low, high)), words)


def _signed(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _ends(value: float, deviation: float | None) -> tuple[float, float]:
    half = deviation or 0.0
    return value - half, value + half


def line_chart(
    key: str,
    title: str,
    lines: Sequence[Line],
    across: Axis,
    words: str,
    *,
    size: tuple[int, int] = LARGE,
    reference: Reference | None = None,
    from_zero: bool = False,
) -> str:
    """Return the SVG of a line for each method.

    Args:
        key: unique on the page; the elements that name the chart are called after it.
        title: what it shows.
        lines: at least one with a point, or a reference.
        across: the horizontal axis.
        words: what the vertical axis measures.
        size: width and height of the drawing, which is scaled to its place.
        reference: of the uncompressed model.
        from_zero: let the vertical axis begin at zero.
    """
    down = _value_axis(lines, reference, words, from_zero=from_zero)
    frame = _Frame(size, across, down)
    svg = _root(key, title, _described(lines, reference, words), size)
    frame.draw(svg, with_words=size != SMALL)
    if reference is not None:
        frame.refer(svg, reference)
    # the first method last, so that it lies above the others
    for line in reversed(lines):
        frame.add(svg, line)
    return ET.tostring(svg, encoding="unicode")


def swatch(method: str) -> str:
    """Return the SVG of a method's line and marker, for a legend."""
    style = style_of(method)
    svg = ET.Element("svg", {"viewBox": "0 0 28 12", "width": "28", "height": "12", "aria-hidden": "true"})
    group = ET.SubElement(svg, "g", {"class": f"series {style.classes}"})
    ET.SubElement(group, "path", {"class": "line", "d": "M1 6L27 6"})
    _mark(group, style, 14, 6)
    return ET.tostring(svg, encoding="unicode")


def _root(key: str, title: str, description: str, size: tuple[int, int]) -> ET.Element:
    names = {"role": "img", "aria-labelledby": f"{key}-title {key}-desc"}
    svg = ET.Element("svg", {"class": "chart", "viewBox": f"0 0 {size[0]} {size[1]}", **names})
    ET.SubElement(svg, "title", {"id": f"{key}-title"}).text = title
    ET.SubElement(svg, "desc", {"id": f"{key}-desc"}).text = description
    return svg


def _described(lines: Sequence[Line], reference: Reference | None, words: str) -> str:
    parts = [f"{line.method}: {'; '.join(point.words for point in line.points)}." for line in lines]
    return " ".join([f"{words}.", *([f"{reference.words}."] if reference else []), *parts])


class _Frame:
    """Place values within a chart's axes."""

    def __init__(self, size: tuple[int, int], across: Axis, down: Axis) -> None:
        self.axes = across, down
        self.right, self.bottom = size[0] - _RIGHT, size[1] - _BOTTOM + (12 if size == SMALL else 0)

    def x(self, value: float) -> float:
        return _LEFT + self.axes[0].place(value) * (self.right - _LEFT)

    def y(self, value: float) -> float:
        return self.bottom - self.axes[1].place(value) * (self.bottom - _TOP)

    def draw(self, svg: ET.Element, *, with_words: bool) -> None:
        across, down = self.axes
        for value, label in down.ticks:
            _segment(svg, "grid", _LEFT, self.y(value), self.right, self.y(value))
            _text(svg, _LEFT - 6, self.y(value) + 4, label, anchor="end")
        last = -math.inf
        for value, label in across.ticks:
            x = self.x(value)
            _segment(svg, "tick", x, self.bottom, x, self.bottom + 4)
            # the end of the axis is worth more than what crowds it
            if x - last >= _APART and (value == across.ticks[-1][0] or self.x(across.ticks[-1][0]) - x >= _APART):
                _text(svg, x, self.bottom + 16, label, anchor="middle")
                last = x
        _segment(svg, "axis", _LEFT, self.bottom, self.right, self.bottom)
        _text(svg, 4, 14, down.words, kind="words")
        if with_words:
            _text(svg, (_LEFT + self.right) / 2, self.bottom + 34, across.words, anchor="middle", kind="words")

    def refer(self, svg: ET.Element, reference: Reference) -> None:
        group = ET.SubElement(svg, "g", {"class": "reference"})
        ET.SubElement(group, "title").text = reference.words
        if reference.deviation:
            low, high = _ends(reference.y, reference.deviation)
            place = {"x": f"{_LEFT}", "y": f"{self.y(high):.1f}", "width": f"{self.right - _LEFT}"}
            ET.SubElement(group, "rect", {"class": "band", **place, "height": f"{self.y(low) - self.y(high):.1f}"})
        _segment(group, "none", _LEFT, self.y(reference.y), self.right, self.y(reference.y))

    def add(self, svg: ET.Element, line: Line) -> None:
        style = style_of(line.method)
        group = ET.SubElement(svg, "g", {"class": f"series {style.classes}", "data-method": line.method})
        places = [(self.x(point.x), self.y(point.y)) for point in line.points]
        if len(places) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            ET.SubElement(group, "path", {"class": "line", "d": f"M{path}"})
        for point, (x, y) in zip(line.points, places, strict=True):
            if point.deviation:
                low, high = (self.y(end) for end in _ends(point.y, point.deviation))
                bar = f"M{x:.1f} {low:.1f}L{x:.1f} {high:.1f}" + "".join(
                    f"M{x - _CAP:.1f} {end:.1f}h{2 * _CAP}" for end in (low, high)
                )
                ET.SubElement(group, "path", {"class": "deviation", "d": bar})
            mark = _mark(group, style, x, y)
            ET.SubElement(mark, "title").text = f"{line.method}, {point.words}"


def _mark(group: ET.Element, style: Style, x: float, y: float) -> ET.Element:
    return ET.SubElement(group, "path", {"class": "mark", "d": marker(style.shape, x, y)})


def _segment(svg: ET.Element, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
    places = {name: f"{value:.1f}" for name, value in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))}
    ET.SubElement(svg, "line", {"class": kind, **places})


def _text(svg: ET.Element, x: float, y: float, words: str, *, anchor: str = "start", kind: str = "label") -> None:
    attributes = {"class": kind, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    ET.SubElement(svg, "text", attributes).text = words
