"""From a table and bytes to trellis-coded rows: bases, classes of rows, bits for each direction."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foldflat.axes import blocks, compute_dtype
from foldflat.embedding.bases import dual_basis, stored_basis, unit_vectors
from foldflat.embedding.bits import RowClass, distortions, pairs_at, spent
from foldflat.embedding.mixed import ClassLayout, MixedEmbedding
from foldflat.embedding.packed import label_bits
from foldflat.embedding.splitting import MOST_CLASSES, Split, row_classes, split_rows
from foldflat.embedding.storage import packed_bytes
from foldflat.embedding.trellis import WINDOWS, encode, window_values
from foldflat.errors import BudgetError, DataError

__all__ = ["Scheme", "choose_scheme", "coded", "fit_mixed"]

_BASES = (1, 2, 4, 8)
_BISECTIONS = 40
_SHARES_OF_RANK = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
_BYTES = 2
_BASIS_DTYPES = (torch.float16, torch.int8)
_LEAST_SCALE = 1e-6
_NEARLY = 1.02
_WORTHWHILE = 0.97
"""More bases have to promise less than this share of the loss: what is promised is not that exact."""


@dataclass(frozen=True)
class Scheme:
    """Hold what is to be stored, before anything is coded.

    Attributes:
        labels: (n,) class of each row; the padding row's is the last.
        bases: matrices (rank, d) with orthonormal rows, or a row of zeros at the end.
        layouts: of the classes.
        basis_dtype: how the bases are stored.
        lost: predicted weighted loss.
    """

    labels: Tensor
    bases: list[Tensor]
    layouts: list[ClassLayout]
    basis_dtype: torch.dtype
    lost: float


def fit_mixed(
    table: Tensor,
    row_weights: Tensor | None,
    budget_bytes: int,
    *,
    padding_idx: int | None = None,
    seed: int = 0,
    watch: Callable[[str], None] | None = None,
) -> MixedEmbedding:
    """Store a table within bytes, every stored one counted, so that the weighted squared error is small.

    Rows are split by their nearest of 1, 2, 4 or 8 subspaces and by their weight; each class has bits for its
    directions where they save most, and the split that promises the least loss is coded.

    Args:
        table: (n, d), finite.
        row_weights: (n,) positive, or None for one each.
        budget_bytes: never exceeded.
        padding_idx: row to keep exactly.
        seed: of the subspaces.
        watch: called with a line of progress.

    Raises:
        BudgetError: the budget is too small to keep anything; the message names one that is enough.
        DataError: scales do not fit into float16.
    """
    scheme = choose_scheme(table, row_weights, budget_bytes, padding_idx=padding_idx, seed=seed)
    if watch is not None:
        watch(f"{len(scheme.layouts)} classes of rows in {len(scheme.bases)} bases")
    return coded(table, scheme, padding_idx)


def choose_scheme(
    table: Tensor,
    row_weights: Tensor | None,
    budget_bytes: int,
    *,
    padding_idx: int | None = None,
    seed: int = 0,
    n: int | None = None,
    splits: dict[int, Split] | None = None,
) -> Scheme:
    """Return the bases, classes and bits that promise the least loss within bytes; nothing is coded.

    Args:
        table, row_weights, budget_bytes, padding_idx, seed: as in `fit_mixed`.
        n: rows that the given ones stand for, where they are a sample.
        splits: kept for further budgets of the same rows.

    Raises:
        BudgetError: the budget is too small to keep anything; the message names one that is enough.
    """
    weights = torch.ones(len(table), dtype=torch.float64) if row_weights is None else row_weights.double().cpu()
    alike = row_classes(table, weights, padding_idx)
    n, splits = n or len(table), {} if splits is None else splits
    if int(alike.max()) < 0:
        raise BudgetError("the only row of the table is its padding row, which is kept as it is; hint: exclude it")
    best: Scheme | None = None
    for k in _BASES:
        if k > 1 and (2 * k * table.shape[1] > len(table) or k * (int(alike.max()) + 1) > MOST_CLASSES):
            break
        if k not in splits:
            splits[k] = split_rows(table, weights, alike, k, seed)
        scheme = _scheme(table, splits[k], n, budget_bytes, padding_idx)
        if scheme is None or (best is not None and scheme.lost >= _WORTHWHILE * best.lost):
            break
        best = scheme
    if best is None or (best.lost > 0 and not any(layout.schedule.n_bytes for layout in best.layouts)):
        d, enough = table.shape[1], _enough(table, splits[1], n, padding_idx)
        few = f"{budget_bytes} bytes are too few for a table of {n} x {d}"
        raise BudgetError(f"{few}; hint: {enough} are enough to keep something of it")
    return best


def _enough(table: Tensor, split: Split, n: int, padding_idx: int | None) -> int:
    """Return bytes that buy anything in the bases of a split, at most 2 % more than the fewest."""

    def buys(budget: int) -> bool:
        scheme = _scheme(table, split, n, budget, padding_idx)
        return scheme is not None and any(layout.schedule.n_bytes for layout in scheme.layouts)

    low = _overhead(n, table.shape[1], len(split.owners), padding_idx, table.element_size())
    high = 2 * low
    while not buys(high):
        low, high = high, 2 * high
    while high > low * _NEARLY:
        middle = (low + high) // 2
        low, high = (low, middle) if buys(middle) else (middle, high)
    return high


def _scheme(table: Tensor, split: Split, n: int, budget_bytes: int, padding_idx: int | None) -> Scheme | None:
    """Return the best ranks and bits of a split, None where the budget is too small for them."""
    d = table.shape[1]
    overhead = _overhead(n, d, len(split.owners), padding_idx, table.element_size())
    sizes = [max(1, round(size * n / len(table))) for size in split.sizes]
    best: Scheme | None = None
    for dtype in _BASIS_DTYPES:
        found = _cheapest(sizes, split.means, split.moments, split.owners, budget_bytes - overhead, d * dtype.itemsize)
        if found is None:
            continue
        layouts, lost = found
        lost += _lost_by_rounding(split, sizes, dtype)
        if best is None or lost < best.lost:
            best = Scheme(split.labels, split.bases, layouts, dtype, lost)
    return None if best is None else _trimmed(best)


def _lost_by_rounding(split: Split, sizes: Sequence[int], dtype: torch.dtype) -> float:
    """Return the weighted loss of directions that are not quite what they were."""
    off = [
        (basis - unit_vectors(stored_basis(basis, dtype).to(basis.dtype))).square().sum(1).cpu().numpy()
        for basis in split.bases
    ]
    return sum(
        size * mean * float(moment @ off[owner])
        for size, mean, moment, owner in zip(sizes, split.means, split.moments, split.owners, strict=True)
    )


def _cheapest(
    sizes: Sequence[int],
    means: Sequence[float],
    moments: Sequence[np.ndarray],
    owners: Sequence[int],
    budget: int,
    vector_bytes: int,
) -> tuple[list[ClassLayout], float] | None:
    """Return layouts and predicted loss at the best number of directions to keep, None where none fits the budget.

    `vector_bytes` are those of one basis vector.
    """
    d = max(len(moment) for moment in moments)
    best: tuple[list[ClassLayout], float] | None = None
    for share in _SHARES_OF_RANK:
        rank = 2 * max(1, math.ceil(share * d / 2))
        classes = [
            RowClass(size, mean, moment[:rank], float(moment[rank:].sum()))
            for size, mean, moment in zip(sizes, means, moments, strict=True)
        ]
        found = _within(classes, owners, budget, vector_bytes)
        if found is None:
            continue
        lost = sum(c.size * c.weight * own for c, (_, own) in zip(classes, found, strict=True))
        if best is None or lost < best[1]:
            layouts = [ClassLayout(size, o, pairs) for size, o, (pairs, _) in zip(sizes, owners, found, strict=True)]
            best = layouts, lost
    return best


def _overhead(n: int, d: int, n_classes: int, padding_idx: int | None, itemsize: int) -> int:
    kept = padding_idx is not None
    return packed_bytes(n, label_bits(n_classes + kept)) + _BYTES * WINDOWS + kept * d * itemsize


def _within(
    classes: Sequence[RowClass], owners: Sequence[int], budget: int, vector_bytes: int
) -> list[tuple[tuple[int, ...], float]] | None:
    """Return bits and loss of each class at the smallest price that keeps to the budget; None where none does."""

    def at(price: float) -> tuple[list[tuple[tuple[int, ...], float]], int]:
        found = [pairs_at(row_class, price) for row_class in classes]
        pairs = [bits for bits, _ in found]
        coded = sum(2 * sum(bit > 0 for bit in bits) for bits in pairs)
        return found, spent(classes, pairs) + _BYTES * coded + vector_bytes * sum(_ranks(owners, pairs))

    low, high = 0.0, max(c.weight * float(c.variances.max(initial=0.0)) for c in classes) + np.finfo(float).tiny
    if at(high)[1] > budget:
        return None
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2 if low else high / 2**4
        low, high = (middle, high) if at(middle)[1] > budget else (low, middle)
        if high < np.finfo(float).tiny:
            break
    return at(high)[0]


def _ranks(owners: Sequence[int], pairs: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the directions that each basis needs."""
    ranks = [0] * (max(owners) + 1)
    for owner, bits in zip(owners, pairs, strict=True):
        last = max((i + 1 for i, bit in enumerate(bits) if bit), default=0)
        ranks[owner] = max(ranks[owner], 2 * last)
    return ranks


def _trimmed(scheme: Scheme) -> Scheme:
    """Return the scheme without directions that no class codes."""
    ranks = _ranks([layout.basis for layout in scheme.layouts], [layout.pairs for layout in scheme.layouts])
    layouts = [
        ClassLayout(layout.size, layout.basis, layout.pairs[: ranks[layout.basis] // 2]) for layout in scheme.layouts
    ]
    ranks += [0] * (len(scheme.bases) - len(ranks))
    bases = [basis[:rank] for basis, rank in zip(scheme.bases, ranks, strict=True)]
    return replace(scheme, bases=bases, layouts=layouts)


@torch.no_grad()
def coded(table: Tensor, scheme: Scheme, padding_idx: int | None) -> MixedEmbedding:
    """Return the layer that stores the rows of a table as a scheme says."""
    n, d = table.shape
    module = MixedEmbedding(
        n,
        d,
        scheme.layouts,
        [len(basis) for basis in scheme.bases],
        basis_dtype=scheme.basis_dtype,
        padding_idx=padding_idx,
        dtype=table.dtype,
        device=table.device,
    )
    module.set_labels(scheme.labels)
    module.bases.copy_(torch.cat([stored_basis(basis, scheme.basis_dtype) for basis in scheme.bases]))
    module.window_values.copy_(window_values())
    if padding_idx is not None:
        module.fixed.copy_(table[padding_idx : padding_idx + 1])
    bases = [module.basis(i).to(compute_dtype(table.dtype)) for i in range(len(module.ranks))]
    for i, layout in enumerate(scheme.layouts):
        if layout.schedule.n_bytes:
            members = torch.nonzero(scheme.labels == i).squeeze(1).to(table.device)
            _code_class(module, i, table, members, bases[layout.basis])
    return module


def _code_class(module: MixedEmbedding, i: int, table: Tensor, members: Tensor, basis: Tensor) -> None:
    """Code the rows of a class, then take the scales that fit the codes best."""
    schedule = module.layouts[i].schedule
    lengths = basis.norm(dim=1)
    dual = dual_basis(unit_vectors(basis))
    coefficients = torch.cat(
        [table[members[part]].to(basis.dtype) @ dual.T for part in blocks(len(members), table.shape[1])]
    )
    deviations = coefficients.square().mean(0).sqrt()
    scales = torch.full_like(deviations, _LEAST_SCALE)
    kept = torch.from_numpy(1 - distortions(schedule)).to(deviations)
    scales[schedule.coded] = (deviations[schedule.coded] * kept.sqrt()).clamp_min(_LEAST_SCALE)
    codes = encode(coefficients, scales, schedule, module.window_values)
    module.fill(i, codes, scales[schedule.coded])
    products = torch.zeros(2, len(schedule.coded), dtype=torch.float64, device=table.device)
    for part in blocks(len(members), len(basis)):
        read = module.read(i, part)
        products[0] += (read * coefficients[part][:, schedule.coded]).sum(0, dtype=torch.float64)
        products[1] += read.square().sum(0, dtype=torch.float64)
    fitted = torch.where(products[1] > 0, products[0] / products[1], 0.0)
    stored = fitted / lengths[schedule.coded].clamp_min(_LEAST_SCALE)
    if float(stored.abs().max()) > torch.finfo(torch.float16).max:
        raise DataError("numbers of the table are too large for scales in float16; hint: method 'int8' or 'int4'")
    module.fill(i, codes, stored)
