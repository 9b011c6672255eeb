"""How each method looks: colour, marker and dash; two methods never share all three."""

import dataclasses
import math

from foldflat.report.page.words import method_order

__all__ = ["N_COLOURS", "Style", "marker", "style_of"]

N_COLOURS = 9
"""How many the style sheet defines, as --c0, --c1, ..: apart for the colour-blind, 3:1 against both backgrounds."""

_FIXED = {"ours": 0, "svd": 1, "paper": 2, "paper-2": 3, "paper-3": 4, "paper-4": 5, "paper-5": 6, "int8": 7, "int4": 8}
_SHAPES = ("circle", "square", "up", "diamond", "down", "plus", "cross", "star", "pentagon")


@dataclasses.dataclass(frozen=True)
class Style:
    """Hold the number of a colour, the name of a marker, and whether the line is dashed and the marker hollow."""

    colour: int
    shape: str
    dashed: bool

    @property
    def classes(self) -> str:
        """Return the classes that the style sheet knows."""
        return f"c{self.colour}{' dashed' if self.dashed else ''}"


def style_of(method: str) -> Style:
    """Return the look of a method: weighted ones are the plain ones dashed."""
    base = method.removesuffix("-weighted")
    # a number of subspaces beyond the paper's takes the shape after its colour's own
    colour = _FIXED.get(base, method_order(base)[1] % N_COLOURS)
    shift = 0 if base in _FIXED else 1 + method_order(base)[1] // N_COLOURS
    return Style(colour, _SHAPES[(colour + shift) % len(_SHAPES)], dashed=base != method)


def marker(shape: str, x: float, y: float, r: float = 4.0) -> str:
    """Return the path of a marker of about radius r around a point."""
    if shape == "circle":
        return f"M{x - r:.1f} {y:.1f}a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0Z"
    if shape in ("plus", "cross"):
        return _strokes(x, y, r, 0.0 if shape == "plus" else math.pi / 4)
    corners = {"square": (4, 45.0, 1.2), "up": (3, -90.0, 1.25), "down": (3, 90.0, 1.25), "diamond": (4, 0.0, 1.3)}
    if shape == "star":
        return _polygon(x, y, [r * (1.4 if i % 2 == 0 else 0.6) for i in range(10)], -90.0)
    n, turn, size = corners.get(shape, (5, -90.0, 1.2))
    return _polygon(x, y, [r * size] * n, turn)


def _polygon(x: float, y: float, radii: list[float], turn: float) -> str:
    angles = (math.radians(turn + 360 * i / len(radii)) for i in range(len(radii)))
    places = (
        f"{x + r * math.cos(angle):.1f} {y + r * math.sin(angle):.1f}" for r, angle in zip(radii, angles, strict=True)
    )
    return f"M{'L'.join(places)}Z"


def _strokes(x: float, y: float, r: float, turn: float) -> str:
    """Return a plus with arms a third as wide as long, turned."""
    w = 0.35 * r
    outline = [
        (r, -w),
        (r, w),
        (w, w),
        (w, r),
        (-w, r),
        (-w, w),
        (-r, w),
        (-r, -w),
        (-w, -w),
        (-w, -r),
        (w, -r),
        (w, -w),
    ]
    sin, cos = math.sin(turn), math.cos(turn)
    places = (f"{x + 1.25 * (a * cos - b * sin):.1f} {y + 1.25 * (a * sin + b * cos):.1f}" for a, b in outline)
    return f"M{'L'.join(places)}Z"
