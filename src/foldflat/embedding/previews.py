"""What a candidate would take and lose, measured on some of a table's rows before it is fitted to all of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foldflat.cluster.rows import distinct_rows
from foldflat.cluster.trials import Problem, SearchSettings, Trial, choose_subspaces
from foldflat.embedding.error import row_losses, weighted_shares
from foldflat.embedding.mixed import MixedEmbedding
from foldflat.embedding.mixing import Scheme, choose_scheme, coded
from foldflat.embedding.splitting import Split
from foldflat.randomness import torch_generator

__all__ = ["PREVIEW_ROWS", "Preview", "Sample", "preview_mixed", "preview_subspaces"]

PREVIEW_ROWS = 8192
"""Rows that a preview of subspaces sees; smaller tables are not previewed but fitted."""

_JUDGES = 5
_CODED_NUMBERS = 1 << 17
_LEAST_OF_CLASS = 16


@dataclass(frozen=True)
class Sample:
    """Hold the rows at hand of a table of n.

    Attributes:
        rows: (m, d).
        positions: (m,) where they stand in the table, increasing.
        n: rows of the table.
        weights: (m,) positive, or None for one each.
    """

    rows: Tensor
    positions: Tensor
    n: int
    weights: Tensor | None

    @property
    def is_whole(self) -> bool:
        """Return whether these are all rows."""
        return len(self.rows) == self.n


@dataclass(frozen=True)
class Preview:
    """Hold what is foreseen of a candidate.

    Attributes:
        size_bytes: of the whole table, an upper bound where the fit decides.
        energy_lost: None where only the weighted loss was measured.
        weighted: weighted energy lost.
        rows: number of rows that the losses were measured on.
        parameters: numbers that are stored, 0 of a rival.
    """

    size_bytes: int
    energy_lost: float | None
    weighted: float
    rows: int
    parameters: int = 0


def preview_subspaces(
    sample: Sample,
    weights: Tensor | None,
    settings: SearchSettings,
    size_bytes: int,
    *,
    watch: Callable[[Trial], None] | None = None,
) -> Preview:
    """Fit subspaces to four of five of 8,192 drawn rows, and judge by the fifth what all rows would lose at most.

    Args:
        sample: rows to draw from.
        weights: (m,) of its rows, zero for those that no subspace serves, or None.
        settings: what is asked of the whole table.
        size_bytes: what that takes.
        watch: called with every trial.

    Raises:
        BudgetError: not even rank 1 fits.
    """
    taken = min(PREVIEW_ROWS, len(sample.rows))
    order = torch.from_numpy(np.random.default_rng(settings.seed).permutation(len(sample.rows)))
    parts = [
        distinct_rows(sample.rows[chosen], None if weights is None else weights[chosen])
        for chosen in (order[taken // _JUDGES : taken], order[: taken // _JUDGES])
    ]
    _, trials = choose_subspaces(Problem(settings, parts[0], parts[1], sample.n), watch)
    lost = min(trial.energy_lost for trial in trials)
    return Preview(size_bytes, lost if weights is None else None, lost, taken, int(settings.budget))


def preview_mixed(
    sample: Sample,
    budget_bytes: int,
    *,
    padding_idx: int | None = None,
    seed: int = 0,
    splits: dict[int, Split] | None = None,
) -> Preview:
    """Choose the bits of every row, and code some rows of every class to measure what they lose.

    Args:
        sample: rows at hand.
        budget_bytes: of the whole table.
        padding_idx: row that is kept exactly, where all rows are at hand.
        seed: of the subspaces and of the rows that are coded.
        splits: kept for further budgets of the same rows.

    Raises:
        BudgetError: the budget is below the smallest code.
    """
    scheme = choose_scheme(
        sample.rows, sample.weights, budget_bytes, padding_idx=padding_idx, seed=seed, n=sample.n, splits=splits
    )
    n, d = sample.n, sample.rows.shape[1]
    layer = MixedEmbedding(
        n,
        d,
        scheme.layouts,
        [len(basis) for basis in scheme.bases],
        basis_dtype=scheme.basis_dtype,
        padding_idx=padding_idx,
        dtype=sample.rows.dtype,
        device="meta",
    )
    chosen, stands_for = _some_of_every_class(scheme, d, seed)
    part = replace(
        scheme,
        labels=scheme.labels[chosen],
        layouts=[
            replace(layout, size=int((scheme.labels[chosen] == i).sum())) for i, layout in enumerate(scheme.layouts)
        ],
    )
    module = coded(sample.rows[chosen], part, None)
    lost, _ = row_losses(sample.rows[chosen], module)
    energy = sample.rows.double().square().sum(1).cpu()
    found = weighted_shares(lost, energy, sample.weights, drawn=(chosen, stands_for))
    return Preview(layer.size_bytes, found.energy_lost, found.weighted, len(chosen), layer.parameters_stored)


def _some_of_every_class(scheme: Scheme, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return positions of rows, all of a small class, and the number of rows that each stands for."""
    generator = torch_generator(seed)
    most = max(_LEAST_OF_CLASS, _CODED_NUMBERS // d // max(1, len(scheme.layouts)))
    chosen, stands_for = [], []
    for i in range(len(scheme.layouts)):
        members = torch.nonzero(scheme.labels == i).squeeze(1)
        drawn = members[torch.randperm(len(members), generator=generator)[:most].sort().values]
        chosen.append(drawn)
        stands_for.append(torch.full((len(drawn),), len(members) / len(drawn), dtype=torch.float64))
    return torch.cat(chosen), torch.cat(stands_for)
