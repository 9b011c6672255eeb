"""Out of a local minimum: parts of clusters change places, judged by their Gram matrices alone.

The alternation moves one row at a time, to subspaces that were fitted without it; what lies in the same few directions
has to move together. A part is such a set of rows. What a union of parts costs follows from the sum of their Gram
matrices, so that no row is read again.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.spectral import spectral_partition
from foldflat.cluster.subspace import gram_matrix, members_by_label, spectra_of

__all__ = ["SpectrumCost", "regrouped"]

SpectrumCost = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""(eigenvalues (c, d), largest first; numbers of rows (c,)) -> (c,) what the cheapest subspaces of clusters cost."""

_PARTS = 4
_SAMPLE_ROWS = 1024
_TRIES = 48
_LEAST_GAIN = 1e-5
_LEAST_LENGTH = 0.5
_ALL_DIVISIONS = 10
_NEAR = 8
_MERGERS = 8
_MOST_NUMBERS = 1 << 28
_MODELLED_AT_ONCE = 1 << 20

Groups = tuple[frozenset[int], ...]
Pair = tuple[int, int]
Change = tuple[tuple[int, frozenset[int]], ...]


def regrouped(
    rows: WeightedRows, labels: Tensor, k: int, cost: SpectrumCost, *, parts: int = _PARTS, seed: int = 0
) -> Tensor | None:
    """Return cheaper labels (m,) in 0..k-1, by moving whole parts of clusters; None where no move tried is cheaper.

    Each cluster is split into at most `parts` by spectral clustering. A move divides the parts of two clusters anew, or
    merges two clusters and splits a third; of clusters with many parts, it takes one part over or swaps two. Clusters
    trade with the eight whose Gram matrices are most like theirs. Moves are ordered by what a model of the spectra
    promises and judged by the eigenvalues themselves; 48 in a row without gain end the search. Memory: 2 k d^2 numbers
    for each part of a cluster, of which there are as many as 2^28 numbers hold.

    Args:
        rows: m distinct rows.
        labels: (m,) in 0..k-1, of a fit.
        k: number of subspaces.
        cost: what clusters cost, from their spectra.
        parts: that a cluster is split into.
        seed: of the spectral clustering.

    Source: ours; splitting and merging clusters to leave local minima is after Ueda et al., "SMEM Algorithm for
    Mixture Models", Neural Computation 2000.
    """
    parts = min(parts, _MOST_NUMBERS // (2 * k * rows.n_features**2))
    if parts < 2 or k == 1:
        return None
    owners, part_of_row = _split(rows, labels, k, parts, seed)
    grams = [gram_matrix(rows, members) for members in members_by_label(part_of_row, len(owners))]
    sizes = torch.zeros(len(owners), dtype=torch.float64).index_add_(0, part_of_row.cpu(), rows.counts.double().cpu())
    unions = _Unions(grams, sizes.tolist(), cost)
    groups = tuple(frozenset(p for p, owner in enumerate(owners) if owner == i) for i in range(k))
    found = _descend(unions, groups)
    if found == groups:
        return None
    targets = torch.empty(len(owners), dtype=torch.int64)
    for i, group in enumerate(found):
        targets[list(group)] = i
    return targets.to(labels.device)[part_of_row]


def _split(rows: WeightedRows, labels: Tensor, k: int, parts: int, seed: int) -> tuple[list[int], Tensor]:
    """Return the cluster of every part, and the part (m,) of every row."""
    owners: list[int] = []
    part_of_row = torch.empty_like(labels)
    for i, members in enumerate(members_by_label(labels, k)):
        if not len(members):
            continue
        own = rows.subset(members)
        found = spectral_partition(own, max(1, min(parts, len(members) // 2)), seed, sample_rows=_SAMPLE_ROWS)
        used, found = torch.unique(found, return_inverse=True)
        part_of_row[members] = found + len(owners)
        owners += [i] * len(used)
    return owners, part_of_row


class _Unions:
    """Price unions of parts: by a model of their spectra, or exactly."""

    def __init__(self, grams: Sequence[Tensor], sizes: Sequence[float], cost: SpectrumCost) -> None:
        flat = torch.stack([gram.flatten() for gram in grams])
        self._products = (flat @ flat.T).double().cpu().numpy()
        self._energies = np.array([float(gram.diagonal().sum(dtype=torch.float64)) for gram in grams])
        self._grams, self._sizes, self._cost = grams, np.array(sizes), cost
        self._places = np.arange(1.0, len(grams[0]) + 1)
        self._exact: dict[frozenset[int], float] = {frozenset(): 0.0}
        self._modelled: dict[frozenset[int], float] = {frozenset(): 0.0}

    def model(self, union: frozenset[int]) -> float:
        """Return what an exponential spectrum of the same energy and the same squared norm would cost."""
        if union not in self._modelled:
            self.model_all([union])
        return self._modelled[union]

    def model_all(self, unions: Iterable[frozenset[int]]) -> None:
        """Model many unions at once, to be asked for one by one: each by itself is mostly overhead."""
        by_length: dict[int, list[frozenset[int]]] = {}
        for union in dict.fromkeys(unions):
            if union not in self._modelled:
                by_length.setdefault(len(union), []).append(union)
        for length, alike in by_length.items():
            own = np.array([list(union) for union in alike])
            for some in blocks(len(alike), max(length**2, len(self._places)), elements=_MODELLED_AT_ONCE):
                prices = self._cost(self._model_spectra(own[some]), self._sizes[own[some]].sum(1))
                self._modelled.update(zip(alike[some], prices.tolist(), strict=True))

    def _model_spectra(self, own: NDArray[np.int64]) -> NDArray[np.float64]:
        energies = self._energies[own].sum(1)
        squared_norms = self._products[own[:, :, None], own[:, None, :]].sum((1, 2))
        # sum and sum of squares of c exp(-i / t) are c t and c^2 t / 2
        lengths = np.full(len(own), _LEAST_LENGTH)
        np.divide(energies**2, 2 * squared_norms, out=lengths, where=squared_norms > 0)
        spectra: NDArray[np.float64] = np.exp(-self._places / np.maximum(lengths, _LEAST_LENGTH)[:, None])
        spectra *= (energies / spectra.sum(1))[:, None]
        return spectra

    def near(self, groups: Groups) -> list[Pair]:
        """Return the pairs (a, b), a < b, in which one is among the eight most like the other."""
        members = np.zeros((len(groups), len(self._sizes)))
        for i, group in enumerate(groups):
            members[i, list(group)] = 1
        products = members @ self._products @ members.T
        norms = np.sqrt(np.maximum(products.diagonal(), np.finfo(float).tiny))
        likeness = products / norms / norms[:, None]
        np.fill_diagonal(likeness, -1)
        found = np.argsort(-likeness, axis=1)[:, : min(_NEAR, len(groups) - 1)].tolist()
        return sorted({(min(a, b), max(a, b)) for a, others in enumerate(found) for b in others})

    def exact(self, unions: Iterable[frozenset[int]]) -> float:
        """Return what some unions cost together."""
        unions = list(unions)
        new = [union for union in dict.fromkeys(unions) if union not in self._exact]
        if new:
            spectra = spectra_of([torch.stack([self._grams[part] for part in union]).sum(0) for union in new])
            sizes = np.array([self._sizes[list(union)].sum() for union in new])
            prices = self._cost(spectra.double().cpu().numpy(), sizes)
            self._exact.update(zip(new, prices.tolist(), strict=True))
        return sum(self._exact[union] for union in unions)


def _descend(unions: _Unions, groups: Groups) -> Groups:
    """Make moves as long as one of the most promising lowers the cost."""
    energy = unions.exact(groups)
    while True:
        changed: dict[int, frozenset[int]] = {}
        for change in _promising(unions, groups):
            if changed.keys().isdisjoint(i for i, _ in change) and _gain(unions, groups, change, energy):
                changed.update(change)
        if not changed:
            return groups
        groups = tuple(changed.get(i, group) for i, group in enumerate(groups))


def _gain(unions: _Unions, groups: Groups, change: Change, scale: float) -> bool:
    before = unions.exact(groups[i] for i, _ in change)
    return unions.exact(group for _, group in change) < before - _LEAST_GAIN * scale


def _promising(unions: _Unions, groups: Groups) -> list[Change]:
    """Return the moves to try: those a plain model likes best in turn with those of one corrected for each cluster."""
    near = unions.near(groups)
    modelled = [unions.model(group) for group in groups]
    exact = [unions.exact([group]) for group in groups]
    factors = [true / model if model > 0 else 1.0 for true, model in zip(exact, modelled, strict=True)]

    def cost(change: Change) -> float:
        return sum(unions.model(group) - modelled[i] for i, group in change)

    def corrected_cost(change: Change) -> float:
        return sum(factors[i] * (unions.model(group) - modelled[i]) for i, group in change)

    divided = list(_divided_anew(groups, near))
    unions.model_all(group for change in divided for _, group in change)
    changes = [*divided, *_merged_and_split(unions, groups, near, cost)]
    pairs = zip(
        heapq.nsmallest(_TRIES, changes, key=cost), heapq.nsmallest(_TRIES, changes, key=corrected_cost), strict=True
    )
    return list(dict.fromkeys(itertools.chain.from_iterable(pairs)))[:_TRIES]


def _divided_anew(groups: Groups, near: Iterable[Pair]) -> Iterator[Change]:
    for a, b in near:
        first, second = groups[a], groups[b]
        both = first | second
        if len(both) <= _ALL_DIVISIONS:
            kept = [half for half in _halves(both) if half not in (first, second)]
        else:
            kept = [first - {part} for part in first] + [first | {part} for part in second]
            kept += [first - {part} | {other} for part in first for other in second]
        yield from (((a, half), (b, both - half)) for half in kept)


def _merged_and_split(
    unions: _Unions, groups: Groups, near: Iterable[Pair], cost: Callable[[Change], float]
) -> Iterator[Change]:
    """Yield the most promising mergers of two clusters with those of splits of a third."""
    nothing: frozenset[int] = frozenset()
    merged: list[Change] = [((a, groups[a] | groups[b]), (b, nothing)) for a, b in near]
    split = [((c, half), (-1, group - half)) for c, group in enumerate(groups) for half in _halves(group)]
    unions.model_all(group for change in (*merged, *split) for _, group in change)
    merged = heapq.nsmallest(_MERGERS, merged, key=cost)
    for (a, union), (b, _) in merged:
        apart = [((c, half), (b, rest)) for (c, half), (_, rest) in split if c not in (a, b)]
        yield from (((a, union), *change) for change in heapq.nsmallest(_MERGERS, apart, key=cost))


def _halves(group: frozenset[int]) -> Iterator[frozenset[int]]:
    """Yield one half of every division of a group in two, none of them empty."""
    if not group:
        return
    head, *others = sorted(group)
    # halves of large groups are too many: single parts stand for them
    counts = range(len(others)) if len(others) < _ALL_DIVISIONS else (0, len(others) - 1)
    for count in counts:
        for chosen in itertools.combinations(others, count):
            yield frozenset((head, *chosen))
