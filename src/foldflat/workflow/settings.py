"""Settings that people write as text."""

import re

from foldflat.errors import RecipeError

__all__ = ["parse_count", "parse_size"]

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_size(text: str) -> int:
    """Return the bytes that "8000000", "8MB" (10^6) or "8MiB" (2^20) mean.

    Raises:
        RecipeError: it is none of these.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise RecipeError(f"the budget {text!r} is not a size; hint: write 8000000, 8MB or 8MiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def parse_count(text: str) -> int:
    """Return the whole number that a text means.

    Raises:
        RecipeError: it is not one.
    """
    try:
        return int(text)
    except ValueError:
        raise RecipeError(f'`n_subspaces` is {text!r}; hint: give "auto" or an integer of at least 1') from None
