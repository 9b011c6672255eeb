"""Round values for axes."""

import math

__all__ = ["linear_ticks", "log_ticks"]

_STEPS = (1.0, 2.0, 5.0, 10.0)
_FINE, _COARSE = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0)


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return at most `count` + 1 multiples of 1, 2 or 5 times a power of ten within [low, high].

    Args:
        low: below high.
        high: above low.
        count: about how many; at least 1.
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in _STEPS if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return values within [low, high] that are about evenly spread on a logarithmic axis.

    Args:
        low: above zero and below high.
        high: above low.
    """
    decades = math.log10(high / low)
    factors = _FINE if decades < 1.3 else _COARSE if decades < 3 else (1.0,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = (float(f"{factor}e{power}") for power in powers for factor in factors)
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
