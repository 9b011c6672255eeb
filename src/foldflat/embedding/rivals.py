"""Ways to store a table that foldflat only measures: product codes, and a vocabulary without its rarest rows."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foldflat.embedding.baselines import QuantizedEmbedding
from foldflat.embedding.error import row_losses, weighted_shares
from foldflat.embedding.previews import Preview, Sample
from foldflat.errors import BudgetError, MissingDependencyError
from foldflat.randomness import torch_generator

__all__ = ["Bound", "product_coded", "product_coded_bytes", "product_codes", "trimmed"]

_HALF = 2
_CENTROIDS = 256
_SEED = 1234
# zeros change no distance, and faiss searches parts of fewer columns eight times slower
_FAST_WIDTH = 8


@dataclass(frozen=True)
class Bound:
    """Say what is asked of a rival: bytes of the whole table, or the share of energy that may be lost."""

    budget_bytes: int | None = None
    max_error: float | None = None


def product_codes(sample: Sample, bound: Bound) -> Preview:
    """Measure product codes of one byte each: as many as fit, or as few as lose little enough.

    Raises:
        MissingDependencyError: faiss is not installed.
        BudgetError: one byte a row is too much, or d codes lose too much.
    """
    n, d = sample.n, sample.rows.shape[1]
    if bound.max_error is None:
        assert bound.budget_bytes is not None
        codes = min(d, (bound.budget_bytes - product_coded_bytes(0, d, 0)) // n)
        if codes < 1:
            raise BudgetError(f"the least is {product_coded_bytes(n, d, 1)} bytes, one a row and the centroids")
        return _coded(sample, codes)
    low, high, best = 0, d, _coded(sample, d)
    if (best.energy_lost or 0.0) > bound.max_error:
        raise BudgetError(f"no number of codes loses at most {bound.max_error} of the energy")
    while high - low > 1:
        middle = (low + high) // 2
        found = _coded(sample, middle)
        if (found.energy_lost or 0.0) > bound.max_error:
            low = middle
        else:
            high, best = middle, found
    return best


def product_coded_bytes(n: int, d: int, codes: int) -> int:
    """Return the bytes of n rows of some codes, and of their centroids in float16."""
    return n * codes + _HALF * _CENTROIDS * d


def product_coded(table: Tensor, codes: int, weights: Tensor | None = None) -> Tensor:
    """Return a table (n, d) as faiss reads it from product codes of one byte each, centroids in float16.

    Parts of a row need not be equally wide, so any number of codes can be had.

    Args:
        table: (n, d), at least 256 rows.
        codes: 1 to d, for each row.
        weights: (n,) what k-means weighs rows by; None for one each.

    Raises:
        MissingDependencyError: faiss is not installed.
        BudgetError: there are fewer rows than centroids.
    """
    faiss = _faiss()
    if len(table) < _CENTROIDS:
        raise BudgetError(f"{len(table)} rows are too few for {_CENTROIDS} centroids")
    faiss.omp_set_num_threads(torch.get_num_threads())
    parts = table.detach().float().cpu().tensor_split(codes, dim=1)
    return torch.cat([_nearest_centroids(faiss, part, weights) for part in parts], 1)


def _nearest_centroids(faiss: Any, part: Tensor, weights: Tensor | None) -> Tensor:
    width = part.shape[1]
    rows = torch.nn.functional.pad(part, (0, max(0, _FAST_WIDTH - width))).contiguous()
    # faiss warns of fewer rows than this for each centroid, as if there were more to be had
    means = faiss.Kmeans(rows.shape[1], _CENTROIDS, seed=_SEED, min_points_per_centroid=1)
    start = None
    if weights is not None:
        weights = weights.detach().float().cpu()
        start = rows[torch.multinomial(weights, _CENTROIDS, generator=torch_generator(0))].numpy()
    means.train(rows.numpy(), None if weights is None else weights.numpy(), start)
    centroids = torch.from_numpy(means.centroids).half().float()
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(centroids.numpy())
    _, nearest = index.search(rows.numpy(), 1)
    return centroids[torch.from_numpy(nearest[:, 0])][:, :width]


def _coded(sample: Sample, codes: int) -> Preview:
    read = product_coded(sample.rows, codes, sample.weights)
    lost = (sample.rows.double().cpu() - read.double()).square().sum(1)
    return _weighed(sample, lost, product_coded_bytes(sample.n, sample.rows.shape[1], codes))


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
    found = weighted_shares(lost, energy, sample.weights)
    return Preview(size_bytes, found.energy_lost, found.weighted, len(lost))
