import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.oracle import energy, parameters, residual_cost, spectrum, tail_energy
from tests.tiny import planted_table
from torch import Tensor

from foldflat.cluster import alternate as alternation
from foldflat.cluster.alternate import Alternation, _refill, alternate, equal_ranks, free_ranks
from foldflat.cluster.assignment import assign_rows, squared_residuals
from foldflat.cluster.fit import continue_fit, fitted_cost
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.seeding import random_partition
from foldflat.cluster.subspace import eigenbases


@st.composite
def awkward_tables(draw: st.DrawFn) -> tuple[Tensor, Tensor | None, int]:
    """Draw a table, weights and k: equal rows, rows of zeros, few directions, more subspaces than distinct rows."""
    n, d = draw(st.integers(1, 24)), draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = generator.standard_normal((n, d))
    kind = draw(st.sampled_from(["any", "equal rows", "zero rows", "lines", "integers"]))
    if kind == "equal rows":
        table = table[generator.integers(0, max(1, n // 4), n)]
    elif kind == "zero rows":
        table[generator.random(n) < 0.5] = 0
    elif kind == "lines":
        table = table[:, :1] * generator.standard_normal((2, d))[generator.integers(0, 2, n)]
    elif kind == "integers":
        table = np.round(table)
    weights = generator.integers(0, 4, n) if draw(st.booleans()) else None
    if weights is not None and not weights.any():
        weights[0] = 1
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    return (
        torch.from_numpy(table).to(dtype),
        None if weights is None else torch.from_numpy(weights),
        draw(st.integers(1, n)),
    )


def assert_never_rises(rows: WeightedRows, state: Alternation) -> None:
    """Within each phase a cost exceeds the one before by rounding at most."""
    noise = 30 * torch.finfo(rows.dtype).eps * float((rows.weights * rows.squared_norms().double()).sum())
    costs, phases = np.array(state.costs), np.array(state.phases)
    assert len(costs) == len(phases) > 0
    rises = np.diff(costs)[np.diff(phases) == 0]
    assert (rises <= noise).all(), f"{costs} in phases {phases}"


def assert_consistent(rows: WeightedRows, state: Alternation, k: int) -> None:
    """Labels are in range, and bases have orthonormal rows."""
    assert len(state.bases) == k
    assert state.labels.shape == (len(rows),)
    assert 0 <= int(state.labels.min()) <= int(state.labels.max()) < k
    for basis in state.bases:
        torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis), dtype=rows.dtype), atol=1e-5, rtol=0)


@given(awkward_tables(), st.integers(1, 5), st.integers(0, 99))
def test_equal_rank_cost_never_rises(case: tuple[Tensor, Tensor | None, int], rank: int, seed: int) -> None:
    """Refit, assignment and refill each lower the cost or leave it, whatever the rows."""
    table, weights, k = case
    rows = distinct_rows(table, weights)
    rank = min(rank, rows.n_features)
    state = alternate(rows, random_partition(rows, k, seed), k, equal_ranks(rank), max_iter=20, tol=0.0)
    assert_never_rises(rows, state)
    assert_consistent(rows, state, k)
    assert [len(basis) for basis in state.bases] == [rank] * k


@given(awkward_tables(), st.floats(0.05, 1), st.integers(0, 99))
def test_free_rank_cost_never_rises_within_a_phase(
    case: tuple[Tensor, Tensor | None, int], keep: float, seed: int
) -> None:
    """Cost + multiplier x parameters falls or stands while the multiplier is held; the budget holds at the end."""
    table, weights, k = case
    rows = distinct_rows(table, weights)
    budget = keep * float(rows.counts.sum()) * rows.n_features
    rule = free_ranks(budget, rows.n_features)
    state = alternate(rows, random_partition(rows, k, seed), k, rule, max_iter=30, tol=0.0)
    assert_never_rises(rows, state)
    assert_consistent(rows, state, k)
    labels = state.labels.repeat_interleave(rows.counts.long())
    ranks = [len(basis) for basis in state.bases]
    assert parameters(labels, ranks, rows.n_features) <= budget * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_what_stands_still_was_confirmed_on_all_rows(seed: int) -> None:
    """At the end every row is where it costs least, and the bases are, bit for bit, those that all rows give.

    Three steps of four look at a quarter of the rows, and their Gram matrices carry the rounding of earlier ones: a
    row a thousand times as long as the others has changed its cluster.
    """
    table, _ = planted_table(700, 12, 5, 3, noise=0.4, seed=seed)
    table[0] *= 1000
    rows = distinct_rows(table.double())
    state = alternate(rows, random_partition(rows, 6, seed), 6, equal_ranks(3), max_iter=200, tol=0.0)
    assert state.converged
    paid = squared_residuals(rows, state.bases).gather(1, state.labels[:, None]).squeeze(1)
    assert (paid <= assign_rows(rows, state.bases)[1] + 1e-5 * rows.squared_norms()).all()
    expected = eigenbases(rows, state.labels, 6)[1][:, :3]
    assert torch.equal(torch.stack(state.bases), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("free", [False, True], ids=["equal", "free"])
def test_cost_never_rises_on_many_rows(free: bool, seed: int) -> None:
    """A weighted table with more rows than hypothesis draws, 12 clusters, until nothing moves."""
    table, _ = planted_table(700, 12, 5, 3, noise=0.4, seed=seed)
    rows = distinct_rows(table, 0.1 + torch.rand(700, generator=torch.Generator().manual_seed(seed)))
    rule = free_ranks(0.4 * table.numel(), 12) if free else equal_ranks(3)
    state = alternate(rows, random_partition(rows, 12, seed), 12, rule, max_iter=100, tol=0.0)
    assert_never_rises(rows, state)
    assert state.converged
    assert len(set(state.phases)) > 1 if free else set(state.phases) == {0}


def test_pulled_bases_end_where_eigenvectors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide tables: costs fall at every step, are those of the bases, and the end costs what it does without pulling."""
    table = planted_table(1200, 40, 4, 12, noise=0.3, seed=1)[0]
    rows = distinct_rows(table)
    start = random_partition(rows, 4, 0)
    exact = alternate(rows, start, 4, equal_ranks(9), max_iter=60, tol=1e-6)
    monkeypatch.setattr(alternation, "_LEAST_PULLED", 1)
    calls = []
    pull = alternation._pull
    monkeypatch.setattr(alternation, "_pull", lambda *given: calls.append(given) or pull(*given))
    pulled = alternate(rows, start, 4, equal_ranks(9), max_iter=60, tol=1e-6)
    assert len(calls) >= 5
    assert all(after <= before * (1 + 1e-6) for before, after in zip(pulled.costs, pulled.costs[1:], strict=False))
    assert pulled.converged
    assert pulled.costs[-1] == pytest.approx(fitted_cost(rows, pulled) / rows.scale, rel=1e-4)
    assert pulled.costs[-1] == pytest.approx(exact.costs[-1], rel=0.02)


def test_refilled_clusters_are_not_paid_twice() -> None:
    """Ten clusters for 20 rows empty often; a refill may not raise cost + multiplier x parameters."""
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        rows = distinct_rows(torch.randn(20, 3, generator=generator, dtype=torch.float64))
        rule = free_ranks(0.6 * 20 * 3, 3)
        state = alternate(rows, random_partition(rows, 10, seed), 10, rule, max_iter=40, tol=0.0)
        assert_never_rises(rows, state)


def test_free_ranks_converge_on_small_tables() -> None:
    """Solving the multiplier anew cannot send the alternation round in circles until `max_iter`."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows = distinct_rows(torch.randn(50, 7, generator=generator))
        rule = free_ranks(0.5 * 50 * 7, 7)
        state = alternate(rows, random_partition(rows, 9, seed), 9, rule, max_iter=100, tol=1e-4)
        assert state.converged


@given(awkward_tables(), st.integers(1, 5), st.integers(0, 99))
def test_free_ranks_cost_at_most_what_their_start_did(
    case: tuple[Tensor, Tensor | None, int], rank: int, seed: int
) -> None:
    """The partition delivered is never worse under the budget than the one that was given.

    Where all clusters have one size, that one is in turn at most what equal ranks cost for the same parameters.
    """
    table, weights, k = case
    rows = distinct_rows(table, weights)
    d = rows.n_features
    rank = min(rank, d)
    budget = rank * (float(rows.counts.sum()) + k * d)
    labels = random_partition(rows, k, seed)
    rule = free_ranks(budget, d)
    block, row_weights = rows.block(slice(None)).double().numpy(), rows.weights.numpy()
    members = [np.flatnonzero(labels.numpy() == i) for i in range(k)]
    gains = np.array([spectrum(block[chosen], row_weights[chosen]) for chosen in members])
    sizes = np.array([float(rows.counts[chosen].sum()) for chosen in members])
    ranks = rule.solve(gains, sizes).ranks
    started = sum(float(gains[i, kept:].sum()) for i, kept in enumerate(ranks))
    noise = 1e-9 + 30 * torch.finfo(rows.dtype).eps * gains.sum()
    state = alternate(rows, labels, k, rule, max_iter=15, tol=0.0)
    ended = residual_cost(block, state.labels.numpy(), [basis.numpy() for basis in state.bases], row_weights)
    assert ended <= started + noise
    if len(set(sizes)) == 1:
        assert started <= gains[:, rank:].sum() + noise


@given(awkward_tables(), st.integers(1, 5), st.integers(0, 99))
def test_any_partition_fitted_by_itself_beats_one_svd(
    case: tuple[Tensor, Tensor | None, int], rank: int, seed: int
) -> None:
    """At one rank, k subspaces from any partition lose at most what the SVD of all rows loses."""
    table, weights, k = case
    rows = distinct_rows(table, weights)
    rank = min(rank, rows.n_features)
    state = continue_fit(rows, random_partition(rows, k, seed), k, rank, None, max_iter=1)
    block, total = rows.block(slice(None)).double().numpy(), (rows.weights * rows.scale).numpy()
    noise = 30 * torch.finfo(rows.dtype).eps * energy(block, total)
    assert fitted_cost(rows, state) <= tail_energy(block, rank, total) + noise


def test_a_cluster_with_too_few_rows_takes_the_worst_fitted() -> None:
    """Axes of length 1 to 4 in one plane of two: the two that lie outside it become the other plane, at no cost."""
    rows = distinct_rows(torch.diag(torch.arange(1.0, 5)))
    state = Alternation(torch.zeros(4, dtype=torch.int64), bases=[torch.eye(4)[:2], torch.eye(4)[:2]])
    costs = torch.tensor([0.0, 0, 9, 16], dtype=torch.float64)[rows.index]
    _refill(rows, state, costs, equal_ranks(2))
    assert state.labels[rows.inverse].tolist() == [0, 0, 1, 1]
    assert torch.equal(state.bases[1], torch.eye(4)[[3, 2]])
    assert costs.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("multiplier", "cost", "moves"), [(0.5, 221, True), (0.5, 3, True), (0.5, 2, False), (50, 221, False)]
)
def test_an_empty_cluster_is_refilled_where_that_pays(multiplier: float, cost: float, moves: bool) -> None:
    """Two rows on one axis are worth a direction if they now cost more than its 2 + 3 parameters would.

    They then pay for their two coefficients themselves; the three numbers of the direction are paid once, apart.
    """
    table = torch.cat([torch.tensor([[0, 0, 10.0], [0, 0, 11]]), 0.01 * torch.eye(3)[:2].repeat(7, 1)])
    table += 1e-4 * torch.arange(16)[:, None] * torch.tensor([1, 0, 0])
    rows = distinct_rows(table.double())
    state = Alternation(torch.zeros(16, dtype=torch.int64), [rows.table[:0]] * 2, multiplier)
    costs = rows.squared_norms()
    costs[rows.inverse[:2]] = cost / 2
    _refill(rows, state, costs, free_ranks(1, 3))
    assert state.labels[rows.inverse].tolist() == [int(moves)] * 2 + [0] * 14
    assert len(state.bases[1]) == moves
    paid = 2 * multiplier if moves else cost
    assert float(costs[rows.inverse[:2]].sum()) == pytest.approx(paid, abs=1e-3)


def test_empty_clusters_end_up_with_rows() -> None:
    """All rows start in one of four clusters, and all four planted subspaces are in use at the end."""
    table, _ = planted_table(400, 12, 4, 2, noise=1e-3)
    rows = distinct_rows(table)
    for rule in (equal_ranks(2), free_ranks(2 * (400 + 4 * 12), 12)):
        labels = torch.zeros(400, dtype=torch.int64)
        state = alternate(rows, labels, 4, rule, max_iter=100, tol=1e-4)
        assert torch.bincount(state.labels, minlength=4).min() > 0
        assert not labels.any()


@pytest.mark.parametrize("free", [False, True], ids=["equal", "free"])
def test_rotated_rows_have_rotated_subspaces(free: bool) -> None:
    """From one start, rows turned by an orthogonal matrix end with the same labels, cost and turned projections."""
    table, _ = planted_table(200, 8, 3, 2, noise=0.2)
    table = table.double()
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
    start = torch.arange(200) % 3
    rank, budget = (None, 0.4 * table.numel()) if free else (3, None)
    found = []
    for given_rows in (table, table @ turn.T):
        rows = distinct_rows(given_rows)
        state = continue_fit(rows, start[rows.index], 3, rank, budget, tol=0.0)
        found.append((state.labels[rows.inverse], fitted_cost(rows, state), [b.T @ b for b in state.bases]))
    (labels, cost, projections), (turned_labels, turned_cost, turned) = found
    assert torch.equal(labels, turned_labels)
    assert turned_cost == pytest.approx(cost, rel=1e-9)
    for plain, other in zip(projections, turned, strict=True):
        torch.testing.assert_close(turn @ plain @ turn.T, other, atol=1e-7, rtol=0)


@pytest.mark.parametrize("rule", [equal_ranks(2), free_ranks(300, 8)], ids=["equal", "free"])
def test_alternation_stops_at_max_iter(rule: object) -> None:
    """One step is one step, and what has not converged says so."""
    table, _ = planted_table(200, 8, 5, 2, noise=0.5)
    rows = distinct_rows(table)
    state = alternate(rows, random_partition(rows, 5, 0), 5, rule, max_iter=1, tol=0.0)  # type: ignore[arg-type]
    assert len(state.costs) == 1
    assert not state.converged
