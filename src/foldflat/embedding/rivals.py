"""Ways to store a table that foldflat only measures: product codes, and a vocabulary without its rarest rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldflat.embedding.baselines import QuantizedEmbedding
from foldflat.embedding.error import row_losses, share_lost
from foldflat.embedding.previews import Preview, Sample
from foldflat.errors import BudgetError, MissingDependencyError
from foldflat.randomness import torch_generator

__all__ = ["Bound", "product_codes", "trimmed"]

_HALF = 2
_CENTROIDS = 256


@dataclass(frozen=True)
class Bound:
    """Say what is asked of a rival: bytes of the whole table, or the share of energy that may be lost."""

    budget_bytes: int | None = None
    max_error: float | None = None


def product_codes(sample: Sample, bound: Bound, *, seed: int = 0) -> Preview:
    """Measure faiss' product codes of one byte each: as many as fit, or as few as lose little enough.

    Centroids are trained on rows drawn by weight, and count as float16.

    Raises:
        MissingDependencyError: faiss is not installed.
        BudgetError: one byte a row is too much, or d codes lose too much.
    """
    n, d = sample.n, sample.rows.shape[1]
    fixed = _HALF * _CENTROIDS * d
    sizes = [m for m in range(1, d + 1) if d % m == 0]
    if bound.max_error is None:
        assert bound.budget_bytes is not None
        fitting = [m for m in sizes if n * m + fixed <= bound.budget_bytes]
        if not fitting:
            raise BudgetError(f"the least is {n + fixed} bytes, one a row and the centroids")
        return _coded(sample, fitting[-1], fixed, seed)
    tried = {}
    while sizes:
        middle = len(sizes) // 2
        tried[sizes[middle]] = found = _coded(sample, sizes[middle], fixed, seed)
        enough = found.energy_lost is not None and found.energy_lost <= bound.max_error
        sizes = sizes[:middle] if enough else sizes[middle + 1 :]
    within = [m for m, found in tried.items() if (found.energy_lost or 0.0) <= bound.max_error]
    if not within:
        raise BudgetError(f"no number of codes loses at most {bound.max_error} of the energy")
    return tried[min(within)]


def _coded(sample: Sample, codes: int, fixed: int, seed: int) -> Preview:
    faiss = _faiss()
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows = np.ascontiguousarray(sample.rows.detach().float().cpu().numpy())
    seen = rows
    if sample.weights is not None:
        generator = torch_generator(seed)
        drawn = np.searchsorted(
            sample.weights.cumsum(0).cpu().numpy(),
            (torch.rand(len(rows), dtype=torch.float64, generator=generator) * sample.weights.sum()).numpy(),
        )
        seen = np.ascontiguousarray(rows[drawn.clip(0, len(rows) - 1)])
    quantiser = faiss.ProductQuantizer(rows.shape[1], codes, 8)
    if len(rows) < _CENTROIDS:
        raise BudgetError(f"{len(rows)} rows are too few for {_CENTROIDS} centroids")
    # faiss warns of rows fewer than this for each centroid, as if there were more to be had
    quantiser.cp.min_points_per_centroid = 1
    quantiser.train(seen)
    read = torch.from_numpy(quantiser.decode(quantiser.compute_codes(rows)))
    lost = (sample.rows.double().cpu() - read.double()).square().sum(1)
    return _weighed(sample, lost, sample.n * codes + fixed)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingDependencyError("faiss is not installed; hint: pip install faiss-cpu") from None
    return faiss


def trimmed(sample: Sample, counts: Tensor, stored_as: str | None, bound: Bound) -> Preview:
    """Measure a vocabulary of which only rows that were counted are left, the commonest that fit the budget.

    Rows that are left out come back as zeros. An index of two or four bytes a row says where the others are.

    Args:
        sample: rows at hand.
        counts: (n,) of all rows.
        stored_as: "int8" or "int4" for what is left, None as it is.
        bound: bytes are kept to; an error is measured with every counted row left.

    Raises:
        BudgetError: not even the index fits.
    """
    n, d = sample.n, sample.rows.shape[1]
    index = n * (2 if n < 1 << 16 else 4)
    rows = sample.rows
    lost, energy = torch.zeros(len(rows), dtype=torch.float64), rows.double().square().sum(1).cpu()
    row_bytes = d * rows.element_size()
    if stored_as is not None:
        module = QuantizedEmbedding.from_table(rows, stored_as)
        lost, _ = row_losses(rows, module)
        row_bytes = module.size_bytes // len(rows)
    left = int((counts > 0).sum())
    if bound.budget_bytes is not None:
        left = min(left, (bound.budget_bytes - index) // row_bytes)
    if left < 1:
        raise BudgetError(f"the least is {index + row_bytes} bytes, an index and one row")
    kept = torch.zeros(n, dtype=torch.bool)
    kept[counts.argsort(descending=True, stable=True)[:left]] = True
    lost = torch.where(kept[sample.positions], lost, energy)
    return _weighed(sample, lost, left * row_bytes + index)


def _weighed(sample: Sample, lost: Tensor, size_bytes: int) -> Preview:
    energy = sample.rows.double().square().sum(1).cpu()
    weights = torch.ones(len(lost), dtype=torch.float64) if sample.weights is None else sample.weights.double().cpu()
    return Preview(
        size_bytes,
        share_lost(lost.sum(), energy.sum()),
        share_lost((weights * lost).sum(), (weights * energy).sum()),
        len(lost),
    )
