"""Numbers and settings of a sweep in words, the same in HTML and Markdown."""

from collections.abc import Iterable, Mapping
from typing import Any

from foldflat.report import megabytes

__all__ = [
    "METHODS",
    "NOTES",
    "by_bytes",
    "bytes_in_words",
    "change",
    "compression",
    "drop",
    "length",
    "listed",
    "method_order",
    "rate",
    "score",
    "share",
]

METHODS = {
    "none": "the uncompressed model, trained as long afterwards as the others",
    "svd": "one subspace for all rows",
    "paper": "the number of subspaces of 2 to 5 that does best on training rows",
    "ours": "foldflat's subspaces, with the settings that compress --keep has by default",
    "mixed": "subspaces with coefficients of mixed bits in a budget; its compression counts bytes, not parameters",
    "int8": "rows of 8-bit integers with a scale each",
    "int4": "groups of 4-bit integers with a scale each",
}
"""What each method does; the paper's with a number of subspaces, and those weighted by counts, follow from these."""

NOTES = {
    "curves": "Across: stored bytes of the compressed table as a share of the original's, every byte counted, on a "
    "logarithmic scale; smaller is further left. Up: points of the headline metric; for the mean over tasks the change "
    "against the uncompressed model of the same seed. Bars, and the band around the dashed line of the uncompressed "
    "model, are one standard deviation over seeds; a single seed has none. Each chart has a vertical scale of its own.",
    "mean": "None minus method, so more is worse. Relative: of the score of the uncompressed model, as in the paper. "
    "In brackets the 95 % interval over paired seeds, which takes tasks as independent of one another (degrees of "
    "freedom by Welch and Satterthwaite); one seed has none. Compression counts parameters, "
    "where nothing else is said. The least relative drop at a compression is bold where it has an interval, among "
    "methods of all seeds.",
    "tasks": "Relative drops in %, below them drops in points, each with its 95 % interval over paired seeds.",
    "sizes": "Every stored byte counts: coefficients, bases, index, scales.",
    "bands": "Tokens by how often they occur in the training texts of a task. Energy lost is the squared error of the "
    "table's rows as a share of their squared length, right after compression; cos is the mean cosine of a row with "
    "what is left of it. Means over cells.",
    "subspaces": "The subspaces whose tokens occur most, each with its commonest tokens.",
}
"""How each section is to be read."""

_ORDER = ("none", "ours", "mixed", "svd", "paper", "int8", "int4")
_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"


def method_order(name: str) -> tuple[int, int, str]:
    """Return what sorts methods: ours, svd, the paper's by number of subspaces, integer rows; weighted ones after."""
    base = name.removesuffix("-weighted")
    family, _, number = base.partition("-")
    place = _ORDER.index(family) if family in _ORDER else len(_ORDER)
    return place, int(number) if number.isdigit() else 0, name


def score(found: Mapping[str, Any] | None) -> str:
    """Return a score in points, with the standard deviation over seeds where there are two or more."""
    if found is None:
        return ""
    spread = "" if found["deviation"] is None else f" ± {100 * found['deviation']:.2f}"
    return f"{100 * found['mean']:.2f}{spread}".replace(" ", _SPACE)


def drop(found: Mapping[str, Any] | None) -> str:
    """Return a mean in hundredths with its 95 % interval; without one where there is one seed."""
    return "" if found is None else _with_limits(found, "")


def change(found: Mapping[str, Any] | None) -> str:
    """Return a mean difference as `drop` does, signs written out."""
    return "" if found is None else _with_limits(found, "+")


def _with_limits(found: Mapping[str, Any], sign: str) -> str:
    def number(value: float) -> str:
        text = f"{100 * value:{sign}.2f}"
        return (f"{0:{sign}.2f}" if float(text) == 0 else text).replace("-", _MINUS)

    if found["low"] is None:
        return number(found["mean"])
    return f"{number(found['mean'])} [{number(found['low'])},{_SPACE}{number(found['high'])}]"


def rate(value: float | None) -> str:
    """Return a compression as a percentage, nothing for a method of one size."""
    return "" if value is None else f"{100 * value:.4g}{_SPACE}%"


def by_bytes(method: str) -> bool:
    """Say whether the compression of a method counts bytes; of all others it counts parameters."""
    return method.removesuffix("-weighted") == "mixed"


def compression(method: str, value: float | None) -> str:
    """Return the compression of a method as `rate` does, and what it counts where that is not parameters."""
    return f"{rate(value)} of bytes" if by_bytes(method) else rate(value)


def share(value: float | None) -> str:
    """Return a share as a percentage of about three digits."""
    if value is None:
        return ""
    if 0 < value < 5e-6:
        return f"below 0.001{_SPACE}%"
    digits = 0 if value >= 0.995 or value == 0 else 1 if value >= 0.0995 else 2 if value >= 0.001 else 3
    return f"{100 * value:.{digits}f}{_SPACE}%"


def bytes_in_words(low: float, high: float | None = None) -> str:
    """Return bytes as MB or kB, a range where the two differ."""
    first = megabytes(low).replace(" ", _SPACE)
    last = first if high is None else megabytes(high).replace(" ", _SPACE)
    return first if first == last else f"{first} to {last}"


def length(place: Mapping[str, Any]) -> str:
    """Return how long was trained after compression."""
    value, unit = (place["epochs"], "epoch") if place["max_steps"] is None else (place["max_steps"], "step")
    return "no fine-tuning" if not value else f"{value:g} {unit}{'' if value == 1 else 's'} of fine-tuning"


def listed(words: Iterable[str], last: str = "and") -> str:
    """Join words by commas and a last word."""
    found = list(words)
    return "".join(found) if len(found) < 2 else f"{', '.join(found[:-1])} {last} {found[-1]}"
