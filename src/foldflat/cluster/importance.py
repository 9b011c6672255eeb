"""Which rows a sampled fit should see, and how far the cost of a sample may be from that of all rows.

Rows are drawn independently, row i with the probability pi_i = min(1, c p_i), and a row that is drawn stands for
1 / pi_i rows: its weight and its count are multiplied by that. Whatever the subspaces, the sampled cost then has the
cost of all rows as its mean.

Theorem. Let Q be subspaces that were chosen without looking at the draw, f_i the cost of row i there, f their sum,
and S at least f_i / (p_i f) for every row. Then with m <= c

    P(|sampled cost - f| >= epsilon f) <= 2 exp(-m epsilon^2 / (2 S (1 + epsilon / 3))).

Proof. Rows with pi_i = 1 add nothing to the error. Of the others, each term B_i f_i / pi_i is off by at most
f_i / (m p_i) <= S f / m, and the variances add up to at most the sum of f_i^2 / (m p_i) <= S f^2 / m; Bernstein's
inequality does the rest. For each of several candidates at once, divide the failure probability among them.

No subspace through the origin costs a row more than its energy e_i, so S = max_i e_i / (p_i E) / (least share of the
energy E that a candidate loses) will do. With the shares below that is at most 3 / (least share lost).

What this does not say: that the sampled cost is near for all subspaces at once, also those fitted to the sample. For
that the same draw needs in the order of S / epsilon^2 x (k j d log S + log 1 / delta) rows, where S becomes the sum
over rows of the largest f_i / f over all subspaces (Feldman and Langberg, "A Unified Framework for Approximating and
Clustering Data", STOC 2011; Braverman, Feldman and Lang, arXiv 1612.00889). For k > 1 no bound on that sum holds for
all tables (Har-Peled, "No, Coreset, No Cry", FSTTCS 2004); for rows of bounded integers there is one (Varadarajan and
Xiao, SODA 2012). Fits are therefore judged by a second draw, of which the theorem speaks, and end with passes over all
rows.

Source: sampling in proportion to the cost of a rough solution and to an upper bound of the sensitivity is that of
Feldman and Langberg and of Varadarajan and Xiao, "On the Sensitivity of Shape Fitting Problems", FSTTCS 2012; the
uniform share is that of Bachem, Lucic and Krause, "Scalable k-Means Clustering via Lightweight Coresets", KDD 2018;
the theorem is Bernstein's inequality, put to use here.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from foldflat.cluster.allocation import largest_equal_rank
from foldflat.cluster.assignment import squared_residuals
from foldflat.cluster.distributed import Team
from foldflat.cluster.fit import continue_fit
from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.seeding import first_partition
from foldflat.cluster.sweep import Block
from foldflat.cluster.trials import SearchSettings
from foldflat.errors import DataError, RecipeError

__all__ = [
    "inclusion_probabilities",
    "relative_error",
    "rough_bases",
    "row_shares",
    "sample_size",
    "total_sensitivity",
]

_ROUGH_SUBSPACES = 4
_ROUGH_STEPS = 8
_ROWS_PER_DIRECTION = 2


def rough_bases(rows: WeightedRows, n: int, settings: SearchSettings) -> list[Tensor]:
    """Return at most four bases of equal rank, fitted to a few rows in a few steps.

    Args:
        rows: rows drawn uniformly from the table.
        n: rows of the whole table.
        settings: what is asked of the whole table; the rank is what its budget allows, or half the rows of a subspace.
    """
    k = min(_ROUGH_SUBSPACES, settings.n_subspaces or _ROUGH_SUBSPACES, len(rows))
    rank = min(
        largest_equal_rank(n, rows.n_features, k, settings.budget, settings.basis_price),
        len(rows) // (_ROWS_PER_DIRECTION * k),
    )
    labels = first_partition(rows, k, "spherical", settings.seed)
    return continue_fit(rows, labels, k, max(1, rank), None, max_iter=_ROUGH_STEPS).bases


def row_shares(block: Block, bases: Sequence[Tensor]) -> Tensor:
    """Return (n,) float64 probabilities p_i of the block's own rows; those of all ranks together add up to one.

    The mean of three shares: of what a rough solution loses, of the energy, and of the rows of positive weight. A share
    of nothing is left out; rows of weight zero have probability zero. Reads every row once.

    Args:
        block: the rows of this rank.
        bases: k matrices (rank_i, d) with orthonormal rows, the rough solution.

    Raises:
        DataError: no row of any rank has a positive weight.
    """
    shares = torch.zeros(3, len(block), dtype=torch.float64)
    for part, chunk in block.chunks():
        shares[0, part] = (squared_residuals(chunk, bases).amin(1) * chunk.weights).cpu()
        shares[1, part] = (chunk.squared_norms() * chunk.weights).cpu()
        shares[2, part] = (chunk.weights > 0).double().cpu()
    totals = block.team.total(shares.sum(1))
    if not totals[2] > 0:
        raise DataError("row weights are all zero; hint: give at least one row a positive weight")
    present = totals > 0
    return (shares[present] / totals[present, None]).mean(0)


def inclusion_probabilities(probabilities: Tensor, size: int, team: Team) -> Tensor:
    """Return (n,) float64 min(1, c p_i), with the c that lets them add up to `size` over all ranks.

    c is at least `size`. Where fewer rows have a positive probability, all of those get one.

    Args:
        probabilities: (n,) those of this rank's rows; of all ranks together they add up to one.
        size: rows to draw on average.
        team: who holds the other rows.
    """
    certain = torch.zeros(len(probabilities), dtype=torch.bool)
    while True:
        sums = torch.stack([certain.sum().double(), probabilities[~certain].sum()])
        count, rest = team.total(sums).tolist()
        factor = max(size - count, 0) / rest if rest > 0 else 0.0
        more = ~certain & (probabilities * factor >= 1)
        if not int(team.total(more.sum())):
            return torch.where(certain, 1.0, probabilities * factor)
        certain |= more


def total_sensitivity(energies: Tensor, probabilities: Tensor, share_lost: float) -> float:
    """Return the S of the theorem above for all candidates that lose at least a share of the energy.

    Args:
        energies: (n,) weighted squared lengths of all rows.
        probabilities: (n,) that add up to one, positive where energy is; 1 / n each for a uniform draw.
        share_lost: the least share of the energy that a candidate loses.

    Raises:
        RecipeError: the share is outside (0, 1].
        DataError: a row that has energy has no probability.
    """
    if not 0 < share_lost <= 1:
        raise RecipeError(f"`share_lost` is {share_lost}, outside (0, 1]; hint: a cost of nought has no relative error")
    held = energies > 0
    if not bool((probabilities[held] > 0).all()):
        raise DataError("a row with energy has probability 0; hint: mix in a uniform share")
    if not bool(held.any()):
        return 1 / share_lost
    most = (energies[held].double() / probabilities[held]).max() / energies.double().sum()
    # below one only by rounding
    return max(1.0, float(most)) / share_lost


def sample_size(sensitivity: float, epsilon: float, delta: float, candidates: int = 1) -> int:
    """Return how many rows to draw so that all sampled costs are within epsilon with probability 1 - delta.

    Args:
        sensitivity: S of the theorem above.
        epsilon: relative error allowed, positive.
        delta: probability of failure allowed, in (0, 1).
        candidates: number of sets of subspaces, chosen without looking at the draw.

    Raises:
        RecipeError: a number is out of its range.
    """
    if not epsilon > 0:
        raise RecipeError(f"`epsilon` is {epsilon}; hint: give a relative error above 0")
    evidence = _evidence(sensitivity, delta, candidates)
    return math.ceil(2 * evidence * (1 + epsilon / 3) / epsilon**2)


def relative_error(sensitivity: float, size: int, delta: float, candidates: int = 1) -> float:
    """Return the epsilon that `size` rows give, the inverse of `sample_size`; the arguments are those.

    Raises:
        RecipeError: a number is out of its range.
    """
    if size < 1:
        raise RecipeError(f"`size` is {size}; hint: draw at least one row")
    third = _evidence(sensitivity, delta, candidates) / (3 * size)
    return third + math.sqrt(third * third + 6 * third)


def _evidence(sensitivity: float, delta: float, candidates: int) -> float:
    if not 1 <= sensitivity < math.inf:
        raise RecipeError(f"`sensitivity` is {sensitivity}, outside [1, infinity); hint: see `total_sensitivity`")
    if not 0 < delta < 1:
        raise RecipeError(f"`delta` is {delta}, outside (0, 1); hint: 0.05 fails once in twenty draws")
    if candidates < 1:
        raise RecipeError(f"`candidates` is {candidates}; hint: one set of subspaces is the least")
    return sensitivity * math.log(2 * candidates / delta)
