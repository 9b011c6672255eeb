"""From subspaces to integers: the step of each direction, the codes of every row, bases refitted to what was coded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foldflat.axes import blocks, compute_dtype
from foldflat.cluster.groups import longest_bases
from foldflat.embedding.partition import occupied
from foldflat.embedding.quantized import QuantizedSubspaceEmbedding
from foldflat.embedding.storage import rounded

__all__ = ["quantized_subspaces"]

_STEP_ROWS = 16384
_CANDIDATES = 24
_SMALLEST = 1 / 16
_RIDGE = 1e-9


@dataclass(frozen=True)
class _Coder:
    """Hold what codes the rows of a table.

    Attributes:
        table: (n, d).
        weights: (n,) float64.
        bits: of a coefficient.
        dtype: to compute in.
    """

    table: Tensor
    weights: Tensor
    bits: int
    dtype: torch.dtype

    def rows(self, members: Tensor) -> Tensor:
        """Return rows (b, d) to compute with."""
        return self.table[members].to(self.dtype)

    def codes(self, members: Tensor, basis: Tensor, steps: Tensor) -> Tensor:
        """Return whole coefficients (b, rank) of rows, in units of their steps."""
        return rounded(self.rows(members) @ basis.T, steps, self.bits)


@torch.no_grad()
def quantized_subspaces(
    table: Tensor,
    labels: Tensor,
    bases: Sequence[Tensor],
    *,
    bits: int,
    groups: Sequence[int] | None = None,
    padding_idx: int | None = None,
    row_weights: Tensor | None = None,
) -> QuantizedSubspaceEmbedding:
    """Store every row of a table as integers of the subspace it is assigned to.

    Args:
        table: (n, d).
        labels: (n,) in 0..k-1; the entry of the padding row is ignored.
        bases: k matrices (rank_i, d) with orthonormal rows. Subspaces without rows are dropped.
        bits: 4 or 8, of a coefficient.
        groups: k numbers; bases of one number begin alike and are stored once. Default: all differ.
        padding_idx: row to keep exactly.
        row_weights: (n,) what the squared error of a row counts; one each by default.
    """
    n, d = table.shape
    padding_idx = None if padding_idx is None else padding_idx % n
    kept = occupied(labels, len(bases), groups, padding_idx)
    ranks = [len(bases[i]) for i in kept.used]
    module = QuantizedSubspaceEmbedding(
        n,
        d,
        kept.sizes,
        ranks,
        bits=bits,
        groups=kept.groups,
        padding_idx=padding_idx,
        dtype=table.dtype,
        device=table.device,
    )
    module.set_labels(kept.assignment)
    weights = torch.ones(n, dtype=torch.float64) if row_weights is None else row_weights.double()
    coder = _Coder(table, weights.to(table.device), bits, compute_dtype(table.dtype))
    longest = longest_bases([bases[i] for i in kept.used], kept.groups)
    members = [torch.nonzero(kept.assignment == i).squeeze(1) for i in range(len(ranks))]
    for group, basis in longest.items():
        own = [i for i, other in enumerate(kept.groups) if other == group]
        _code_group(module, coder, group, basis.to(coder.dtype), {i: members[i] for i in own})
    if padding_idx is not None:
        module.fixed.copy_(table[padding_idx : padding_idx + 1])
    return module


def _code_group(
    module: QuantizedSubspaceEmbedding, coder: _Coder, group: int, basis: Tensor, members: dict[int, Tensor]
) -> None:
    """Code the rows of all subspaces of one basis, then fit the basis to their codes by least squares."""
    rank, d = basis.shape
    steps = _steps(coder, basis, [(module.ranks[i], own) for i, own in members.items()])
    gram = torch.zeros(rank, rank, dtype=torch.float64, device=basis.device)
    products = torch.zeros(rank, d, dtype=torch.float64, device=basis.device)
    for i, own in members.items():
        r = module.ranks[i]
        for part in blocks(len(own), d):
            codes = coder.codes(own[part], basis[:r], steps[:r])
            module.write(i, part, codes)
            weighted = codes.T * coder.weights[own[part]].to(codes.dtype)
            gram[:r, :r] += weighted @ codes
            products[:r] += weighted @ coder.rows(own[part])
    # directions that no row uses have a gram of zeros, and become zero
    ridge = _RIDGE * gram.trace().clamp_min(1e-30) / max(1, rank)
    gram.diagonal().add_(ridge)
    module.set_basis(group, torch.linalg.solve(gram, products))


def _steps(coder: _Coder, basis: Tensor, members: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Return (rank,) the step of each direction: of 24 candidates the one of least squared error.

    It is chosen on at most 16,384 evenly spaced rows, each for the directions that its subspace has.
    """
    stride = -(-sum(len(own) for _, own in members) // _STEP_ROWS)
    coefficients, weights = [], []
    for r, own in members:
        chosen = own[::stride]
        found = coder.rows(chosen) @ basis.T
        found[:, r:] = 0
        coefficients.append(found)
        weights.append(coder.weights[chosen])
    values, importance = torch.cat(coefficients), torch.cat(weights).to(coder.dtype)
    largest = values.abs().amax(0) / (2 ** (coder.bits - 1) - 1)
    best: Tensor = largest
    least = torch.full_like(largest, torch.inf)
    for share in torch.logspace(0, 1, _CANDIDATES, base=_SMALLEST).tolist():
        step = share * largest
        lost = importance @ (rounded(values, step, coder.bits) * step - values).square()
        best, least = torch.where(lost < least, step, best), torch.minimum(lost, least)
    return best
