"""Candidates measured on ever more of the examples, until it is clear what comes out."""

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
    outputs: list[NDArray[Any]] = []
    for part in np.array_split(order, max(1, min(_STAGES, n // _FEWEST))):
        outputs.append(examples.part(part.tolist()).outputs(model, progress=progress))
        so_far = np.concatenate(outputs)
        seen = order[: len(so_far)]
        if len(seen) == n:
            break
        found = examples.part(seen.tolist()).measure(risk, reference[seen], so_far)
        if enough(found):
            return found
    in_order = np.empty_like(so_far)
    in_order[order] = so_far
    return examples.measure(risk, reference, in_order)
