"""Charts: points are where their axes say."""

import re
from xml.etree import ElementTree as ET

import pytest

from foldflat.report.page.bars import Bar, bar_chart
from foldflat.report.page.charts import Line, Point, Reference, line_chart, share_axis
from foldflat.report.page.styles import marker

NUMBER = r"-?[0-9.]+"


def chart() -> ET.Element:
    """Return a chart of three points, of which ticks are at 40, 60, 80 up and 50 and 100 % across."""
    points = (Point(0.5, 40.0, None, "a"), Point(0.7, 60.0, 10.0, "b <i>"), Point(1.0, 80.0, None, "c"))
    axis = share_axis([0.5, 0.7, 1.0], "across")
    level = Reference(80.0, 5.0, "level")
    return ET.fromstring(line_chart("key", "title", [Line("svd", points)], axis, "up", reference=level))


def found(svg: ET.Element, name: str, kind: str) -> list[ET.Element]:
    """Return the elements of a name and class."""
    return [element for element in svg.iter(name) if element.get("class") == kind]


def places(path: str) -> list[tuple[float, float]]:
    """Return the corners of a path."""
    return [(float(x), float(y)) for x, y in re.findall(rf"[ML]({NUMBER}) ({NUMBER})", path)]


def test_points_lie_where_the_ticks_of_their_values_are() -> None:
    """Up at the grid lines of 40, 60 and 80; across at the labels of 50, 70 and 100 %, which are logarithms apart."""
    svg = chart()
    (line,) = found(svg, "path", "line")
    across, down = zip(*places(line.get("d", "")), strict=True)
    labels = {element.text: element for element in found(svg, "text", "label")}
    grid = sorted({float(element.get("y1", "")) for element in found(svg, "line", "grid")}, reverse=True)
    assert list(down) == pytest.approx(
        [grid[i] for i, text in enumerate(("40", "60", "80")) if text in labels], abs=0.1
    )
    ticks = [float(labels[f"{share}\N{NO-BREAK SPACE}%"].get("x", "")) for share in (50, 70, 100)]
    assert list(across) == pytest.approx(ticks, abs=0.1)
    assert (across[1] - across[0]) / (across[2] - across[0]) == pytest.approx(0.4854, abs=1e-3)
    assert down[0] > down[1] > down[2]


def test_bars_and_bands_are_one_deviation_up_and_down() -> None:
    """10 is half of the way between ticks of 20, the band of 5 a quarter each way; one seed has no bar."""
    svg = chart()
    (line,), (bar,), (band,) = (
        found(svg, *kind) for kind in (("path", "line"), ("path", "deviation"), ("rect", "band"))
    )
    down = [y for _, y in places(line.get("d", ""))]
    step = down[0] - down[1]
    ends = [y for _, y in places(bar.get("d", ""))][:2]
    assert [ends[0] - down[1], down[1] - ends[1]] == pytest.approx([step / 2, step / 2], abs=0.2)
    assert float(band.get("height", "")) == pytest.approx(step / 2, abs=0.2)
    assert float(band.get("y", "")) == pytest.approx(down[2] - step / 4, abs=0.2)


def test_a_chart_is_named_for_those_who_do_not_see_it() -> None:
    """Title and description are referred to, and say every point; so does each marker."""
    svg = chart()
    title, description = svg[0], svg[1]
    assert svg.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "title"
    assert description.text == "up. level. svd: a; b <i>; c."
    assert [mark[0].text for mark in found(svg, "path", "mark")] == ["svd, a", "svd, b <i>", "svd, c"]


def test_bars_are_as_long_as_their_amounts() -> None:
    """Parts from left to right, on one scale."""
    bars = [Bar("one", (("a", "table", 300.0), ("b", "rest", 100.0)), "x"), Bar("two", (("a", "table", 100.0),), "y")]
    svg = ET.fromstring(bar_chart("key", "title", bars))
    widths = [float(element.get("width", "")) + 1 for element in svg.iter("rect")]
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.01)
    assert widths[1] == widths[2]
    first, second = (float(element.get("x", "")) for element in list(svg.iter("rect"))[:2])
    assert second - first == pytest.approx(widths[0])


@pytest.mark.parametrize("shape", ["square", "up", "down", "diamond", "plus", "cross", "star", "pentagon"])
def test_markers_stand_around_their_point(shape: str) -> None:
    """Their corners are on all sides, no further than twice the radius."""
    corners = places(marker(shape, 10, 20, 4))
    across, down = zip(*corners, strict=True)
    assert min(across) < 10 < max(across)
    assert min(down) < 20 < max(down)
    assert all((x - 10) ** 2 + (y - 20) ** 2 <= 64 for x, y in corners)
