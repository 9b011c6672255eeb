"""Candidates measured on ever more of the examples, until it is clear what comes out."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldflat.certify import Risk
from foldflat.workflow.certificates.promise import Examples

__all__ = ["measure_in_stages"]

_STAGES = 8
_FEWEST = 100


def measure_in_stages(
    examples: Examples,
    risk: str,
    reference: NDArray[Any],
    model: Any,
    enough: Callable[[Risk], bool],
    *,
    progress: bool = False,
) -> Risk:
    """Return a risk on some of the examples, drawn at random, from which on `enough` holds; on all, in order, else.

    Args:
        examples: to measure on.
        risk: its name.
        reference: outputs of the original for each example (n, ..).
        model: the candidate.
        enough: whether the examples seen suffice; asked after each eighth of them, of at least 100.
        progress: show bars.
    """
    n = len(examples.hashes)
    order = np.random.default_rng(0).permutation(n)
    parts = [np.sort(part) for part in np.array_split(order, max(1, min(_STAGES, n // _FEWEST)))]
    values: list[NDArray[np.float64]] = []
    for part in parts:
        seen = examples.part(part.tolist())
        found = seen.measure(risk, reference[part], seen.outputs(model, progress=progress))
        values.append(found.values)
        so_far = dataclasses.replace(found, values=np.concatenate(values))
        if so_far.n < n and enough(so_far):
            return so_far
    in_order = np.empty_like(so_far.values)
    in_order[np.concatenate(parts)] = so_far.values
    return dataclasses.replace(so_far, values=in_order)
