from collections.abc import Iterator
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cluster.oracle import spectrum, tail_energy
from tests.tiny import planted_table

from foldflat import ProjectiveClustering
from foldflat.cluster.alternate import RankRule, equal_ranks, free_ranks
from foldflat.cluster.regrouping import regrouped
from foldflat.cluster.rows import distinct_rows
from foldflat.errors import RecipeError

RULES = {"equal": equal_ranks(2), "free": free_ranks(400.0, 8.0)}
MULTIPLIER = 0.05


def priced(rows: torch.Tensor, labels: torch.Tensor, k: int, rule: RankRule) -> float:
    """Return what a partition costs, from the singular values of its clusters."""
    clusters = [rows[labels == i].numpy() for i in range(k)]
    spectra, sizes = np.stack([spectrum(cluster) for cluster in clusters]), np.array([*map(len, clusters)])
    return float(rule.price(spectra, sizes, MULTIPLIER).sum())


def pairings(subspaces: tuple[int, ...]) -> Iterator[list[tuple[int, int]]]:
    """Yield every way to sort an even number of subspaces into pairs."""
    if not subspaces:
        yield []
        return
    first, *others = subspaces
    for other in others:
        left = tuple(subspace for subspace in others if subspace != other)
        yield from ([(first, other), *pairs] for pairs in pairings(left))


@pytest.mark.parametrize("seed", [1, 2])
def test_moves_reach_the_best_of_all_pairings(seed: int) -> None:
    """Eight planted subspaces in four clusters: rows alone do not find which go together, parts do."""
    table, planted = planted_table(1600, 32, 8, 3, noise=0.02)
    rows, labels = table.numpy(), planted.numpy()
    pairs = {pair: tail_energy(rows[np.isin(labels, pair)], 4) for pair in combinations(range(8), 2)}
    best = min(sum(map(pairs.__getitem__, pairing)) for pairing in pairings(tuple(range(8))))
    fit = partial(ProjectiveClustering, 4, 4, random_state=seed)
    assert fit(n_moves=0).fit(rows).cost_ > 1.2 * best
    model = fit().fit(rows)
    assert model.cost_ < 1.001 * best
    assert (np.diff(model.costs_) <= 1e-6 * model.costs_[0]).all()
    assert len(model.costs_) == model.n_iter_ == len(model.phases_)


def test_clusters_that_are_right_stay() -> None:
    """No division of planted clusters is cheaper; one cluster has nothing to move to."""
    table, planted = planted_table(600, 24, 3, 4)
    rows = distinct_rows(table)
    cost = partial(equal_ranks(4).price, multiplier=0.0)
    assert regrouped(rows, planted[rows.index], 3, cost) is None
    assert regrouped(rows, torch.zeros_like(rows.index), 1, cost) is None


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 4))
def test_moves_lower_the_cost_they_are_judged_by(rule: RankRule, seed: int, k: int) -> None:
    """Any partition, also one with empty clusters: what comes back costs less by singular values, or nothing does."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(60, 8, generator=generator) * torch.logspace(0, -1, 8)
    rows = distinct_rows(table)
    labels = torch.randint(0, k, (60,), generator=generator)
    found = regrouped(rows, labels, k, partial(rule.price, multiplier=MULTIPLIER))
    if found is not None:
        assert 0 <= int(found.min()) <= int(found.max()) < k
        before, after = (priced(rows.table[rows.index], chosen, k, rule) for chosen in (labels, found))
        assert after < before


@pytest.mark.parametrize("setting", ["n_moves", "annealing"])
def test_moves_are_for_squares(setting: str) -> None:
    """A robust loss has no Gram matrix that prices a union: the setting is refused, not ignored."""
    model = ProjectiveClustering(2, 1, loss="huber", **{setting: 2})
    with pytest.raises(RecipeError, match=f"`{setting}` is 2, but only squared distances"):
        model.fit(np.eye(4))
    with pytest.raises(RecipeError, match=f"`{setting}`"):
        ProjectiveClustering(2, 1, **{setting: -1}).fit(np.eye(4))
