"""The cheapest subspace of every row, in no more precision than the answer needs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from foldflat.axes import CACHED_ELEMENTS, blocks, has_fast_bfloat16
from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.subspace import BasisStack
from foldflat.errors import BudgetError

__all__ = [
    "NARROW_MARGIN",
    "DoubtfulRows",
    "assign_rows",
    "assign_within",
    "narrow_products_pay",
    "price_gaps",
    "squared_residuals",
]

_NARROW_MULTIPLICATIONS = 1 << 32
_NARROW_LEAST_LOSS = 2.0**-8
NARROW_MARGIN = 2.0**-8
"""Share of a row's energy below which bfloat16 does not tell two subspaces."""
_DOUBTFUL_SHARE = 4
_BISECTIONS = 16
_LEAST_MULTIPLIER = 1e-12


def assign_rows(
    rows: WeightedRows,
    bases: Sequence[Tensor],
    multiplier: float = 0.0,
    *,
    narrow: bool = False,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    margins: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (m,) labels of the cheapest subspaces and (m,) float64 what each row costs there.

    A row costs weight x squared distance + multiplier x rank x number of equal rows.

    Args:
        rows: m distinct rows.
        bases: k matrices (rank_i, d) with orthonormal rows.
        multiplier: energy that one parameter must save.
        temperature: above 0, a row goes where it costs p with a probability in proportion to
            exp(-p / (temperature x its weighted energy)), as `generator` draws.
        narrow: multiply in bfloat16 first, and again in full precision where the two cheapest subspaces differ by
            less than 2^-8 of the row's energy. A bfloat16 distance was off by up to 1.3e-3 of that energy (standard
            deviation, three tables of 64 to 768 numbers a row), and one row of 76,434 went elsewhere than without.
        margins: (m,), filled with how much dearer the second cheapest subspace is, in shares of the row's energy.
    """
    device = rows.table.device
    stack = BasisStack(bases, torch.bfloat16 if narrow else None)
    # a draw needs no exact ties
    exact_stack = BasisStack(bases) if narrow and not temperature else None
    rents = multiplier * torch.tensor([len(basis) for basis in bases], dtype=torch.float64, device=device)
    costs = torch.empty(len(rows), dtype=torch.float64, device=device)
    labels = torch.empty(len(rows), dtype=torch.int64, device=device)
    elements = 2 * CACHED_ELEMENTS if narrow else CACHED_ELEMENTS
    for part in blocks(len(rows), max(stack.matrix.shape), elements=elements):
        block, weights = rows.block(part), rows.weights[part, None]
        norms = block.square().sum(1)
        rent = rows.counts[part, None] * rents
        prices = _residuals(block, norms, stack).mul_(weights).add_(rent)
        if exact_stack is not None:
            near = _nearly_tied(prices, weights[:, 0] * norms)
            exact = _residuals(block[near], norms[near], exact_stack)
            prices[near] = exact.mul_(weights[near]).add_(rent[near])
        if temperature:
            # the smallest of costs with Gumbel noise is a draw from their Gibbs distribution
            gumbel = torch.empty(prices.shape).exponential_(generator=generator).log_()
            drawn = prices + temperature * weights * norms[:, None] * gumbel.to(device)
            labels[part] = drawn.argmin(1)
            costs[part] = prices.gather(1, labels[part, None]).squeeze(1)
        else:
            costs[part], labels[part] = prices.min(1)
        if margins is not None:
            margins[part] = _margins(prices, weights[:, 0] * norms)
    return labels, costs


class DoubtfulRows:
    """Remember how clearly rows chose, so that only the quarter that chose least clearly is assigned again.

    Rows that stay where they are cannot raise the cost. From one full assignment to the next, 70 to 98 % of the rows
    that move are of that quarter, once the first two steps are done (16384 x 256 table, k=5, j=128).

    Attributes:
        margins: (m,) how much dearer the second cheapest subspace was, in shares of the row's energy.
        costs: (m,) float64, what each row cost when it was last assigned.
    """

    def __init__(self, rows: WeightedRows) -> None:
        """Doubt no row yet."""
        self._rows = rows
        self.margins = torch.full((len(rows),), torch.inf, device=rows.table.device)
        self.costs = torch.zeros(len(rows), dtype=torch.float64, device=rows.table.device)

    def assigned(self, labels: Tensor, bases: Sequence[Tensor], *, narrow: bool) -> Tensor:
        """Return labels (m,), new ones for the doubtful rows."""
        count = max(1, len(self._rows) // _DOUBTFUL_SHARE)
        chosen = self.margins.topk(count, largest=False).indices.sort().values
        margins = self.margins[chosen]
        found, self.costs[chosen] = assign_rows(self._rows.subset(chosen), bases, narrow=narrow, margins=margins)
        self.margins[chosen] = margins
        return labels.index_copy(0, chosen, found)


def squared_residuals(rows: WeightedRows, bases: Sequence[Tensor], parts: Tensor | None = None) -> Tensor:
    """Return (m, k): the squared distance of every row to every subspace.

    Args:
        rows: m distinct rows.
        bases: matrices (rank_i, d) with orthonormal rows, one a subspace; or s of them, as `parts` says.
        parts: (s, k) booleans, which of the given bases make up each subspace; those are orthogonal to each other.
    """
    stack = BasisStack(bases)
    k = len(bases) if parts is None else parts.shape[1]
    residuals = torch.empty(len(rows), k, dtype=rows.dtype, device=rows.table.device)
    for part in blocks(len(rows), max(stack.matrix.shape), elements=CACHED_ELEMENTS):
        block = rows.block(part)
        residuals[part] = _residuals(block, block.square().sum(1), stack, parts)
    return residuals


def assign_within(
    rows: WeightedRows, residuals: Tensor, ranks: Tensor, numbers: float, multiplier: float
) -> tuple[Tensor, float]:
    """Assign every row by residual + multiplier x rank, with the smallest multiplier that keeps to a number of numbers.

    Args:
        rows: m distinct rows.
        residuals: (m, k) weighted squared distances, infinite where a row may not go.
        ranks: (k,) float64.
        numbers: coefficients of all rows together; at least what the smallest ranks take.
        multiplier: where to begin.

    Returns:
        labels (m,) and the multiplier.
    """

    def labels_at(multiplier: float) -> tuple[Tensor, bool]:
        labels = torch.empty(len(rows), dtype=torch.int64, device=residuals.device)
        for part in blocks(len(rows), residuals.shape[1]):
            labels[part] = (residuals[part] + multiplier * (rows.counts[part, None] * ranks)).argmin(1)
        return labels, float((rows.counts * ranks[labels]).sum()) <= numbers

    low, high = (
        0.0,
        max(multiplier, _LEAST_MULTIPLIER * float(residuals.amin(1).max()), torch.finfo(torch.float64).tiny),
    )
    while not labels_at(high)[1]:
        low, high = high, 2 * high
        if not math.isfinite(high):
            raise BudgetError(f"{numbers:.0f} coefficients are too few for these ranks; hint: raise the budget")
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if labels_at(middle)[1] else (middle, high)
    return labels_at(high)[0], high


def narrow_products_pay(rows: WeightedRows, total_rank: int, energy_lost: float) -> bool:
    """Return whether bfloat16 products save time here and are exact enough.

    Args:
        rows: m distinct rows.
        total_rank: sum of the k ranks.
        energy_lost: share of the energy outside the subspaces; below 2^-8 the rounding would show in the cost.
    """
    return (
        rows.dtype == torch.float32
        and energy_lost >= _NARROW_LEAST_LOSS
        and len(rows) * total_rank * rows.n_features >= _NARROW_MULTIPLICATIONS
        and has_fast_bfloat16(rows.table.device)
    )


def price_gaps(prices: Tensor) -> Tensor:
    """Return (m,) how much dearer the second least of each row of prices (m, k) is; infinite where k is one."""
    if prices.shape[1] == 1:
        return torch.full_like(prices[:, 0], torch.inf)
    best, second = prices.topk(2, dim=1, largest=False).values.unbind(1)
    return second - best


def _residuals(block: Tensor, norms: Tensor, stack: BasisStack, parts: Tensor | None = None) -> Tensor:
    captured = stack.captured_energy(block)
    if parts is not None:
        captured = captured @ parts.to(captured.dtype)
    return (norms[:, None] - captured).clamp_min_(0).double()


def _margins(prices: Tensor, energies: Tensor) -> Tensor:
    return price_gaps(prices) / energies.clamp_min(torch.finfo(energies.dtype).tiny)


def _nearly_tied(prices: Tensor, energies: Tensor) -> Tensor:
    return torch.nonzero(price_gaps(prices) < NARROW_MARGIN * energies).squeeze(1)
