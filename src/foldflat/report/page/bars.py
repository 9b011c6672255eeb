"""The sizes of whole models as stacked bars."""

import dataclasses
from collections.abc import Sequence
from xml.etree import ElementTree as ET

__all__ = ["Bar", "bar_chart"]

_WIDTH, _ROW, _THICK = 400, 22, 13
_LEFT, _RIGHT = 118, 66
_GAP = 1.0


@dataclasses.dataclass(frozen=True)
class Bar:
    """Hold a bar: its label, the parts (name, class, amount) from left to right, and what stands behind it."""

    label: str
    parts: tuple[tuple[str, str, float], ...]
    words: str


def bar_chart(key: str, title: str, bars: Sequence[Bar]) -> str:
    """Return the SVG of bars below one another, on one scale from zero.

    Args:
        key: unique on the page.
        title: what the bars show.
        bars: at least one that is not empty.
    """
    longest = max(sum(amount for _, _, amount in bar.parts) for bar in bars)
    height = _ROW * len(bars) + 4
    names = {"role": "img", "aria-labelledby": f"{key}-title {key}-desc"}
    svg = ET.Element("svg", {"class": "chart bars", "viewBox": f"0 0 {_WIDTH} {height}", **names})
    ET.SubElement(svg, "title", {"id": f"{key}-title"}).text = title
    ET.SubElement(svg, "desc", {"id": f"{key}-desc"}).text = "; ".join(f"{bar.label}: {bar.words}" for bar in bars)
    for i, bar in enumerate(bars):
        _draw(svg, bar, i * _ROW + 4, (_WIDTH - _LEFT - _RIGHT) / longest)
    return ET.tostring(svg, encoding="unicode")


def _draw(svg: ET.Element, bar: Bar, top: float, scale: float) -> None:
    base = {"class": "label", "y": f"{top + _THICK - 2:.1f}"}
    ET.SubElement(svg, "text", {**base, "x": f"{_LEFT - 8}", "text-anchor": "end"}).text = bar.label
    x = float(_LEFT)
    for name, kind, amount in bar.parts:
        width = scale * amount
        if width > 0:
            shown = width - _GAP if width > 3 * _GAP else width
            place = {"x": f"{x:.2f}", "y": f"{top:.1f}", "width": f"{shown:.2f}", "height": f"{_THICK}"}
            ET.SubElement(ET.SubElement(svg, "rect", {"class": kind, **place}), "title").text = f"{bar.label}: {name}"
        x += width
    ET.SubElement(svg, "text", {**base, "x": f"{x + 6:.1f}"}).text = bar.words
