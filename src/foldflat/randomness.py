"""Turn seeds into generators; foldflat never touches global random state."""

import numpy as np
import torch

__all__ = ["spawn_seeds", "torch_generator"]


def torch_generator(seed: int) -> torch.Generator:
    """Return a CPU generator whose stream depends on `seed` alone."""
    return torch.Generator().manual_seed(seed)


def spawn_seeds(seed: int, count: int) -> list[int]:
    """Return `count` independent 31-bit seeds derived from `seed`."""
    return [int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(count, dtype=np.uint32)]
