import pytest
import torch
from tests.cluster.oracle import energy, parameters, residual_cost
from tests.tiny import planted_table
from torch import Tensor

from foldflat.cluster import search, streaming
from foldflat.cluster.fit import Clustering, fit_table
from foldflat.cluster.search import search_subspaces
from foldflat.cluster.trials import SAMPLINGS, SearchSettings, Trial
from foldflat.errors import BudgetError


def spent(found: Clustering, d: int) -> int:
    """Count the parameters of a clustering, a shared basis once."""
    bases: dict[int, int] = {}
    for group, rank in zip(found.groups, found.ranks, strict=False):
        bases[group] = max(rank, bases.get(group, 0))
    saved = (sum(found.ranks) - sum(bases.values())) * d if bases else 0
    return parameters(found.labels.tolist(), found.ranks, d) - saved


@pytest.fixture(scope="module")
def table() -> Tensor:
    """Return rows near four subspaces: neither one nor very many serve them best."""
    return planted_table(600, 16, 4, 3, noise=0.05)[0]


def doubled(trials: list[Trial]) -> list[Trial]:
    """Return the trials before nesting: k = 1, 2, 4, .., every subspace in a basis of its own."""
    return [trial for i, trial in enumerate(trials) if trial.n_bases == trial.n_subspaces == 2**i]


@pytest.mark.parametrize("free", [True, False], ids=["free", "equal"])
def test_every_k_tried_is_reported_and_the_cheapest_continued(table: Tensor, free: bool) -> None:
    """K doubles from one until the cost rises, the best are nested; the cheapest is delivered, within the budget."""
    budget = 0.3 * table.numel()
    watched: list[Trial] = []
    found, trials = search_subspaces(table, None, SearchSettings(budget, free=free), watch=watched.append)
    assert watched == trials
    plain = doubled(trials)
    losses = [trial.energy_lost for trial in plain]
    assert losses[:-1] == sorted(losses[:-1], reverse=True)
    assert losses[-1] >= losses[-2]
    assert {trial.rows for trial in trials} == {600}
    best = min(trials, key=lambda trial: trial.energy_lost)
    assert len(found.ranks) == best.n_subspaces > 1
    assert len(set(found.groups or range(best.n_subspaces))) == best.n_bases
    assert any(trial.n_bases < trial.n_subspaces for trial in trials) == free
    assert spent(found, 16) <= budget
    assert free or len(set(found.ranks)) == 1


def test_the_continued_clustering_costs_at_most_its_trial(table: Tensor) -> None:
    """The run to convergence starts where the short one ended; costs are those of the whole table, weighted."""
    weights = 0.5 + torch.rand(600, generator=torch.Generator().manual_seed(0))
    found, trials = search_subspaces(table, weights, SearchSettings(0.3 * table.numel()))
    bases = [basis.numpy() for basis in found.bases]
    cost = residual_cost(table.numpy(), found.labels.numpy(), bases, weights.numpy())
    assert found.cost == pytest.approx(cost, rel=1e-4)
    lost = cost / energy(table.numpy(), weights.numpy())
    assert lost <= min(trial.energy_lost for trial in trials) * (1 + 1e-6)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("free", [True, False], ids=["free", "equal"])
def test_a_sample_decides_k_and_the_whole_table_keeps_to_the_budget(
    table: Tensor, free: bool, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short runs see about 200 of 600 rows for a third of the budget; all rows then halve the SVD's cost within it."""
    for module in (search, streaming):
        monkeypatch.setattr(module, "SAMPLE_ROWS", 200)
        monkeypatch.setattr(module, "JUDGE_ROWS", 200)
    budget = 0.3 * table.numel()
    found, trials = search_subspaces(table, None, SearchSettings(budget, free=free, sampling=sampling))
    (seen,) = {trial.rows for trial in trials}
    assert seen == 200 if sampling == "uniform" else 160 < seen < 240
    assert len(set(found.groups or found.labels.tolist())) in {trial.n_bases for trial in trials}
    assert found.labels.shape == (600,)
    assert 0.7 * budget <= spent(found, 16) <= budget
    one, _ = search_subspaces(table, None, SearchSettings(budget, free=free, max_subspaces=1, sampling=sampling))
    assert found.cost < 0.5 * one.cost
    assert trials[0].energy_lost == pytest.approx(one.cost / energy(table.numpy()), rel=0.2)


def test_a_sample_is_judged_on_rows_that_it_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subspaces that follow the noise of 160 rows are no better on others, which may spend no more than those did.

    Half of the numbers of normal noise hold half of its energy, and a choice between k subspaces a little more; the
    rows fitted, five to a subspace, lose nearly nothing at the end.
    """
    noise = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
    for module in (search, streaming):
        monkeypatch.setattr(module, "SAMPLE_ROWS", 160)
        monkeypatch.setattr(module, "JUDGE_ROWS", 1000)
    _, trials = search_subspaces(noise, None, SearchSettings(0.5 * noise.numel()))
    assert all(120 < trial.rows < 200 for trial in trials)
    assert len(doubled(trials)) <= 5
    assert all(trial.energy_lost > 0.35 for trial in trials)


def test_trials_end_where_rows_settings_or_ranks_do(table: Tensor) -> None:
    """At most one subspace per distinct row, at most `max_subspaces`, and none whose rank would be zero."""
    few = table[:3].repeat(4, 1)
    assert [t.n_subspaces for t in doubled(search_subspaces(few, None, SearchSettings(100))[1])] in ([1], [1, 2])
    _, capped = search_subspaces(table, None, SearchSettings(0.3 * table.numel(), max_subspaces=2))
    assert [trial.n_subspaces for trial in doubled(capped)] == [1, 2]
    assert max(trial.n_subspaces for trial in capped) == 2
    _, ranked = search_subspaces(table[:20], None, SearchSettings(60, free=False))
    assert [trial.n_subspaces for trial in ranked] in ([1], [1, 2])  # four subspaces need 20 + 4 x 16 = 84


def test_a_budget_below_rank_one_is_refused(table: Tensor) -> None:
    """600 rows in one subspace of rank 1 take 616 parameters; the message says so."""
    for free in (True, False):
        with pytest.raises(BudgetError, match=r"budget of 615 parameters .* 600 x 16 table; hint: .* 616"):
            search_subspaces(table, None, SearchSettings(615, free=free))
    assert search_subspaces(table, None, SearchSettings(616, max_subspaces=1))[0].ranks == [1]


def test_rows_of_zeros_lose_nothing() -> None:
    """A table without energy has one subspace and no cost, rather than a division by zero."""
    found, trials = search_subspaces(torch.zeros(6, 4), None, SearchSettings(12))
    assert found.cost == 0
    assert [trial.energy_lost for trial in trials] == [0] * len(trials)


@pytest.mark.parametrize("free", [True, False], ids=["free", "equal"])
@pytest.mark.parametrize(("k", "share"), [(None, 0.4), (5, 0.01)])
def test_subspaces_without_common_directions_are_found(k: int | None, share: float, free: bool) -> None:
    """Five subspaces of 32 in 128 dimensions, of which a spherical start sees nothing: those if k is given, else four.

    Only powers of two are tried where it is not.
    """
    rows = planted_table(640, 128, 5, 32, noise=0.02)[0]
    settings = SearchSettings((640 + 5 * 128) * 32, free=free, n_subspaces=k, max_subspaces=8)
    found, _ = search_subspaces(rows, None, settings)
    assert found.cost < share * fit_table(rows, n_subspaces=5, rank=32).cost
