"""Let a library draw random numbers, log and set attributes, and put everything back afterwards."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from foldflat.evaluate.optional import require
from foldflat.model.hub import quiet_transformers

__all__ = ["attributes_restored", "datasets_bars_off", "quiet_transformers", "random_state_restored"]


@contextlib.contextmanager
def random_state_restored() -> Iterator[None]:
    """Give back the global generators of random, numpy and torch (every CUDA device) as they were."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 (saved because libraries draw from it)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002 (as above)


@contextlib.contextmanager
def attributes_restored(*objects: Any) -> Iterator[None]:
    """Undo assignments to attributes of `objects`; changes inside an attribute's value stay."""
    before = [(item, dict(vars(item))) for item in objects]
    try:
        yield
    finally:
        for item, attributes in before:
            vars(item).clear()
            vars(item).update(attributes)


@contextlib.contextmanager
def datasets_bars_off() -> Iterator[None]:
    """Keep the bars of `datasets` off for a while."""
    datasets = require("datasets", "eval")
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
