"""Calls side by side, on one thread each: LAPACK and many small products gain little from several."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["side_by_side"]

Item = TypeVar("Item")
Value = TypeVar("Value")


def side_by_side(call: Callable[[Item], Value], items: Iterable[Item], *, worthwhile: bool = True) -> list[Value]:
    """Return what a function makes of each item, as many at a time as torch may use threads.

    Args:
        call: may run on any thread, and sees one thread of torch's.
        items: what to call it with.
        worthwhile: False to call it in turn, with all threads each.
    """
    items, threads = list(items), torch.get_num_threads()
    if not worthwhile or min(len(items), threads) < 2:
        return [call(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(call, items))
    finally:
        # what a thread sets also holds for threads that begin later
        torch.set_num_threads(threads)
