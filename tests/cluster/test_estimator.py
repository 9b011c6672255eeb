from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from tests.cluster.oracle import energy, parameters, residual_cost, spectrum, tail_energy
from tests.tiny import planted_table

from foldflat.cluster import ProjectiveClustering
from foldflat.errors import BudgetError, DataError, RecipeError

Array = NDArray[Any]


def planted(n: int = 240, d: int = 10, k: int = 4, rank: int = 2, noise: float = 0.3, seed: int = 0) -> Array:
    """Return rows near k subspaces in float64."""
    return planted_table(n, d, k, rank, noise, seed)[0].double().numpy()


def equal(k: int = 4, rank: int | None = 3, **settings: Any) -> ProjectiveClustering:
    """Return an estimator of equal ranks with a seed, without moves, which have tests of their own."""
    return ProjectiveClustering(k, rank, **{"random_state": 0, "n_moves": 0, **settings})


def free(k: int = 4, keep_ratio: float = 0.5, **settings: Any) -> ProjectiveClustering:
    """Return an estimator of free ranks with a seed."""
    settings = {"random_state": 0, "n_moves": 0, **settings}
    return ProjectiveClustering(k, keep_ratio=keep_ratio, free_ranks=True, **settings)


BOTH = pytest.mark.parametrize("make", [equal, free])
Make = Callable[..., ProjectiveClustering]


# check_array_api_input skips itself unless SCIPY_ARRAY_API is set; free ranks count rows, so that for them
# weight 2 cannot equal the row twice, which one of the checks demands
@parametrize_with_checks(
    [
        ProjectiveClustering(),
        ProjectiveClustering(3, rank=1, n_init=2, n_moves=0),
        ProjectiveClustering(2, rank=1, affine=True, power=1.2),
        ProjectiveClustering(2, rank=1, loss="huber"),
    ]
)
def test_contract_of_scikit_learn(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    """Every check of scikit-learn passes; none is expected to fail."""
    check(estimator)


# ------------------------------------------------------------ identity


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_one_subspace_is_the_truncated_svd(rank: int, weighted: bool) -> None:
    """K = 1 spans the leading right singular vectors, with the SVD's cost."""
    rows = planted()
    weights = np.random.default_rng(0).uniform(0.1, 3, len(rows)) if weighted else None
    model = equal(1, rank).fit(rows, sample_weight=weights)
    assert model.cost_ == pytest.approx(tail_energy(rows, rank, weights), rel=1e-9)
    scaled = rows if weights is None else rows * np.sqrt(weights)[:, None]
    leading = np.linalg.svd(scaled)[2][:rank]
    np.testing.assert_allclose(model.bases_[0].T @ model.bases_[0], leading.T @ leading, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("settings", [{"rank": 6}, {"rank": None, "keep_ratio": 1.0}])
def test_full_rank_is_exact(settings: dict[str, Any], dtype: type) -> None:
    """Rank d reconstructs every row; so do six lines of the axes they lie on."""
    tolerance = 1e-5 if dtype is np.float32 else 1e-12
    rows = planted(120, 6, 3).astype(dtype)
    model = equal(3, 6).fit(rows)
    np.testing.assert_allclose(model.reconstruct(rows), rows, atol=10 * tolerance)
    assert model.cost_ <= tolerance**2 * energy(rows)
    axes = np.repeat(np.eye(6, dtype=dtype), 20, 0) * np.arange(1, 121, dtype=dtype)[:, None]
    exact = equal(6, **({"rank": 1} if settings["rank"] else settings)).fit(axes)
    assert exact.cost_ <= tolerance**2 * energy(axes)


# ------------------------------------------------------------ worked examples


def test_three_lines_in_space() -> None:
    """120 points on 3 lines through the origin: 3 lines take 129 numbers and are exact, one plane takes 246."""
    generator = np.random.default_rng(0)
    lines = np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0.6, -0.8]])
    labels = np.arange(120) % 3
    rows = generator.standard_normal((120, 1)) * lines[labels]
    model = equal(3, 1).fit(rows)
    assert parameters(model.labels_, model.ranks_, 3) == 129
    assert model.cost_ <= 1e-20 * energy(rows)
    assert adjusted_rand_score(labels, model.labels_) == 1
    found = np.concatenate(model.bases_)
    np.testing.assert_allclose(np.abs(found @ lines.T).max(0), 1, atol=1e-9)
    plane = equal(1, 2).fit(rows)
    assert parameters(plane.labels_, plane.ranks_, 3) == 246
    assert plane.cost_ > 0.05 * energy(rows)


@pytest.mark.parametrize(("k", "rank"), [(1, 4), (2, 3)])
def test_twenty_rows_of_ten_features_in_120_parameters(k: int, rank: int) -> None:
    """60 % of 200 numbers are rank 4 in one subspace or rank 3 in two."""
    rows = planted(20, 10)
    model = ProjectiveClustering(k, keep_ratio=0.6, random_state=0).fit(rows)
    assert model.ranks_.tolist() == [rank] * k
    assert parameters(model.labels_, model.ranks_, 10) == 120


def test_rank_is_half_the_features_by_default() -> None:
    """Neither `rank` nor `keep_ratio` given: d // 2, and 1 for a single feature."""
    assert equal(2, None).fit(planted(50, 9)).ranks_.tolist() == [4, 4]
    assert equal(2, None).fit(planted(50, 1, rank=1)).ranks_.tolist() == [1, 1]


# ------------------------------------------------------------ invariants


def assert_same_model(first: ProjectiveClustering, second: ProjectiveClustering) -> None:
    """Compare bases, ranks and the cost, up to rounding."""
    assert first.ranks_.tolist() == second.ranks_.tolist()
    for one, other in zip(first.bases_, second.bases_, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    assert first.cost_ == pytest.approx(second.cost_, rel=1e-9)


@BOTH
def test_scale_of_the_weights_changes_nothing(make: Make) -> None:
    """Weights times 1000 give the same subspaces and labels, and a thousandfold cost."""
    rows = planted()
    weights = np.random.default_rng(1).uniform(0.2, 2, len(rows))
    first, second = make().fit(rows, sample_weight=weights), make().fit(rows, sample_weight=1000 * weights)
    assert first.labels_.tolist() == second.labels_.tolist()
    assert first.multiplier_ == pytest.approx(second.multiplier_)
    second.cost_ /= 1000
    assert_same_model(first, second)


def test_weight_two_is_the_row_twice() -> None:
    """Rows weighted 0..3 or repeated as often: the same subspaces, cost and labels."""
    rows = planted(80)
    times = np.random.default_rng(2).integers(0, 4, len(rows))
    weighted = equal().fit(rows, sample_weight=times)
    repeated = equal().fit(np.repeat(rows, times, axis=0))
    assert_same_model(weighted, repeated)
    assert np.repeat(weighted.labels_, times).tolist() == repeated.labels_.tolist()


@BOTH
def test_rows_of_weight_zero_take_no_part(make: Make) -> None:
    """They change nothing, and still get a label: that of the subspace `predict` names."""
    rows = planted(120)
    weights = (np.arange(120) % 3 > 0).astype(float)
    weighted, alone = make().fit(rows, sample_weight=weights), make().fit(rows[weights > 0])
    assert_same_model(weighted, alone)
    assert weighted.labels_[weights > 0].tolist() == alone.labels_.tolist()
    assert weighted.labels_[weights == 0].tolist() == weighted.predict(rows)[weights == 0].tolist()


@BOTH
@given(order=st.permutations(range(30)), init=st.sampled_from(["spherical", "spectral", "random"]))
def test_order_of_the_rows_does_not_matter(make: Make, order: list[int], init: str) -> None:
    """Shuffled rows find the same subspaces, bit for bit, and the same label for each row."""
    rows = planted(30, 6)
    model, shuffled = make(init=init).fit(rows), make(init=init).fit(rows[order])
    assert all(np.array_equal(a, b) for a, b in zip(model.bases_, shuffled.bases_, strict=True))
    assert model.labels_[order].tolist() == shuffled.labels_.tolist()


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bases_are_orthonormal_with_canonical_signs(make: Make, dtype: type) -> None:
    """V V^T is the identity, the entry of largest magnitude is positive, leading directions hold most energy."""
    rows = planted().astype(dtype)
    model = make().fit(rows)
    for label, basis in enumerate(model.bases_):
        assert basis.dtype == dtype
        np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-5)
        assert (basis[np.arange(len(basis)), np.abs(basis).argmax(1)] > 0).all()
        captured = np.square(rows[model.labels_ == label] @ basis.T).sum(0)
        assert captured[0] >= captured[-1]


@given(st.integers(4, 40), st.integers(2, 8), st.integers(1, 6), st.floats(0.2, 1), st.booleans(), st.integers(0, 99))
def test_keep_ratio_is_never_exceeded(n: int, d: int, k: int, keep: float, equal_ranks: bool, seed: int) -> None:
    """Coefficients and bases together are at most the share asked for; equal rows are counted one by one."""
    rows = planted(n, d, 2, 1, seed=seed)
    rows[n // 2 :] = rows[: n - n // 2]
    model = ProjectiveClustering(min(k, n), keep_ratio=keep, free_ranks=not equal_ranks, random_state=seed)
    try:
        model.fit(rows)
    except BudgetError:
        assert keep * n * d < n + min(k, n) * d
        return
    assert parameters(model.labels_, model.ranks_, d) <= keep * n * d * (1 + 1e-9)
    assert model.ranks_.max() <= d


def test_free_ranks_lose_less_than_equal_ranks() -> None:
    """Clusters of rank 1 and rank 5 under one budget: free ranks follow them, equal ranks cannot."""
    generator = np.random.default_rng(0)
    rows = np.zeros((300, 12))
    rows[:150, :1] = 5 * generator.standard_normal((150, 1))
    rows[150:, 1:6] = generator.standard_normal((150, 5))
    rows += 0.01 * generator.standard_normal(rows.shape)
    tied = ProjectiveClustering(2, keep_ratio=0.3, random_state=0).fit(rows)
    model = free(2, 0.3).fit(rows)
    assert tied.ranks_.tolist() == [3, 3]
    assert min(model.ranks_) == 1
    assert model.cost_ < 0.1 * tied.cost_


def test_more_starts_never_cost_more() -> None:
    """The first starts are the same ones, and the cheapest is kept."""
    rows = planted()
    costs = [equal(6, 2, n_init=count, init="random").fit(rows).cost_ for count in (1, 3, 8)]
    assert costs[0] >= costs[1] >= costs[2]
    assert costs[0] > costs[2]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("init", "n_init", "n_moves"), [("random", 12, 0), ("spherical", 30, 0), ("random", 1, 1), ("spherical", 1, 1)]
)
def test_planted_subspaces_are_recovered(init: str, n_init: int, n_moves: int, seed: int) -> None:
    """Rows within 1e-3 of three planes in twelve dimensions: among the starts, or by moves, every row's own is found.

    The planes are symmetric about the origin, which is where a start from directions is at its worst.
    """
    table, labels = planted_table(300, 12, 3, 2, noise=1e-3, seed=seed)
    settings = {"init": init, "n_init": n_init, "n_moves": n_moves, "random_state": seed}
    for model in (equal(3, 2, **settings), free(3, 2 * (300 + 36) / 3600, **settings)):
        model.fit(table.numpy())
        assert adjusted_rand_score(labels, model.labels_) == 1
        assert model.ranks_.tolist() == [2] * 3


# ------------------------------------------------------------ what comes out


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [1e-4, 0.3])
def test_cost_is_the_weighted_residual(make: Make, dtype: type, noise: float) -> None:
    """Also where residuals are 1e-8 of the energy, which |a|^2 - |V a|^2 in float32 cannot see."""
    rows = planted(noise=noise).astype(dtype)
    weights = np.random.default_rng(3).uniform(0.2, 2, len(rows))
    model = make(4, **({"rank": 2} if make is equal else {}), n_init=10).fit(rows, sample_weight=weights)
    expected = residual_cost(rows, model.labels_, model.bases_, weights)
    assert noise > 1e-3 or expected < 1e-6 * energy(rows)
    assert model.cost_ == pytest.approx(expected, rel=1e-2 if dtype is np.float32 else 1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_ranks_agree_with_themselves(dtype: type) -> None:
    """Predict finds labels_, reconstruct and score follow from transform, transform from the bases."""
    rows = planted().astype(dtype)
    weights = np.random.default_rng(4).uniform(0.2, 2, len(rows))
    model = equal().fit(rows, sample_weight=weights)
    assert model.predict(rows).tolist() == model.labels_.tolist()
    assert clone(model).fit_predict(rows, sample_weight=weights).tolist() == model.labels_.tolist()
    assert model.score(rows, sample_weight=weights) == pytest.approx(-model.cost_, rel=1e-5)


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_methods_agree_with_each_other(make: Make, dtype: type) -> None:
    """Row by row: coordinates in the predicted subspace, zeros on the right, the projection, its distance."""
    rows = planted().astype(dtype)
    model = make().fit(rows)
    unseen = planted(50, seed=7).astype(dtype)
    labels, coordinates, projected = model.predict(unseen), model.transform(unseen), model.reconstruct(unseen)
    assert coordinates.shape == (50, model.ranks_.max())
    assert coordinates.dtype == projected.dtype == dtype
    tolerance = 1e-4 if dtype is np.float32 else 1e-10
    for row, label, coordinate, projection in zip(unseen, labels, coordinates, projected, strict=True):
        basis = model.bases_[label]
        np.testing.assert_allclose(coordinate[: len(basis)], basis @ row, atol=tolerance)
        assert (coordinate[len(basis) :] == 0).all()
        np.testing.assert_allclose(projection, basis.T @ basis @ row, atol=tolerance)
    assert model.score(unseen) == pytest.approx(-np.square(unseen - projected).sum(), rel=1e-5)


@pytest.mark.parametrize("copies", [1, 3])
def test_predict_pays_rent_for_ranks(copies: int) -> None:
    """A row goes where its squared distance + multiplier x rank is least, and back to its own label mostly.

    The unit is a row of mean weight, so that it does not matter how many rows of the table are equal.
    """
    rows = np.repeat(planted(300, 12, 5, 3), copies, axis=0)
    model = free(5, 0.3).fit(rows)
    assert model.multiplier_ > 0
    prices = [
        np.square(rows - rows @ basis.T @ basis).sum(1) + model.multiplier_ * len(basis) for basis in model.bases_
    ]
    assert model.predict(rows).tolist() == np.argmin(prices, axis=0).tolist()
    assert (model.predict(rows) == model.labels_).mean() > 0.95


@pytest.mark.parametrize("copies", [1, 3])
def test_multiplier_is_what_one_parameter_had_to_save(copies: int) -> None:
    """The best direction left out saves just that per parameter, counted on the rows as they were given."""
    rows = np.repeat(planted(200, 12, 4, 3), copies, axis=0)
    model = free(4, 0.3).fit(rows)
    left_out = []
    for label, rank in enumerate(model.ranks_):
        members = rows[model.labels_ == label]
        left_out.append(spectrum(members)[rank] / (len(members) + 12))
    assert max(left_out) == pytest.approx(model.multiplier_, rel=1e-6)


def test_what_is_left_of_the_budget_goes_to_cheaper_directions() -> None:
    """40 rows near one axis, 6 near another; 70 numbers pay for an axis each (44 + 10), then for 10 more, not 44."""
    many = np.tile([[10.0, 1, 0, 0], [10, -1, 0, 0]], (20, 1))
    few = np.tile([[0, 0, 8.0, 0.5], [0, 0, 8, -0.5]], (3, 1))
    model = free(2, 70 / 184).fit(np.concatenate([many, few]))
    assert model.ranks_[model.labels_[[0, -1]]].tolist() == [1, 2]
    assert parameters(model.labels_, model.ranks_, 4) == 64
    assert model.cost_ == pytest.approx(40)


@BOTH
def test_costs_and_phases_tell_the_story(make: Make) -> None:
    """One entry per step; equal ranks are one phase, and free ranks fall within each of theirs."""
    rows = planted()
    model = make(tol=0.0).fit(rows)
    assert model.n_iter_ == len(model.costs_) == len(model.phases_) > 2
    rises = np.diff(model.costs_)[np.diff(model.phases_) == 0]
    assert (rises <= 1e-9 * model.costs_[0]).all()
    if make is equal:
        assert model.cost_ == pytest.approx(model.costs_[-1], rel=1e-9)
        assert set(model.phases_) == {0}
        assert model.multiplier_ == 0


@BOTH
def test_the_seed_alone_decides(make: Make) -> None:
    """An integer repeats itself, a RandomState moves on, and the global generator is not used."""
    rows = planted(noise=0.8)
    state = np.random.get_state()[1].copy()  # noqa: NPY002  # is it touched?
    first, second = make(init="random").fit(rows), make(init="random").fit(rows)
    assert np.array_equal(first.costs_, second.costs_)
    moving = np.random.RandomState(0)  # scikit-learn's interface
    costs = [make(init="random", random_state=moving).fit(rows).costs_[0] for _ in range(2)]
    assert costs[0] != costs[1]
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002  # see above


def test_input_is_not_changed() -> None:
    """Also read-only and Fortran-ordered rows are taken as they are."""
    rows = np.asfortranarray(planted(40))
    rows.setflags(write=False)
    before = rows.copy()
    model = equal(2).fit(rows)
    model.reconstruct(rows)
    assert np.array_equal(rows, before)


# ------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_subspaces": 0}, r"`n_subspaces` is 0; hint: give an integer of at least 1"),
        ({"n_subspaces": 2.0}, r"`n_subspaces` is 2\.0; hint: give an integer"),
        ({"n_subspaces": True}, r"`n_subspaces` is True; hint: give an integer"),
        ({"n_subspaces": 21}, r"`n_subspaces` is 21, more than the n_samples = 20 rows given; hint: lower it to 20"),
        ({"n_init": 0}, r"`n_init` is 0; hint: give an integer of at least 1"),
        ({"max_iter": 0}, r"`max_iter` is 0; hint: give an integer of at least 1"),
        ({"rank": 0}, r"`rank` is 0; hint: give an integer of at least 1"),
        ({"rank": 11}, r"`rank` is 11, more than the 10 features; hint: lower it to 10"),
        ({"rank": 2, "keep_ratio": 0.5}, r"both `rank` and `keep_ratio` are given; hint: give one"),
        ({"keep_ratio": 0.0}, r"`keep_ratio` is 0\.0, outside \(0, 1\]"),
        ({"keep_ratio": 1.1}, r"`keep_ratio` is 1\.1, outside \(0, 1\]"),
        ({"keep_ratio": float("nan")}, r"`keep_ratio` is nan, outside \(0, 1\]"),
        ({"free_ranks": True}, r"`free_ranks` needs a budget; hint: give `keep_ratio`"),
        ({"free_ranks": True, "rank": 2}, r"`free_ranks` needs a budget; hint: .* instead of `rank`"),
        ({"tol": -1e-3}, r"`tol` is -0\.001, below 0"),
        ({"tol": float("nan")}, r"`tol` is nan, below 0"),
        (
            {"init": "kmeans++"},
            r"`init` is 'kmeans\+\+', which is unknown; hint: choose one of spherical, spectral, random",
        ),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], message: str) -> None:
    """Each message gives what was asked and what is possible, and is a ValueError too."""
    model = ProjectiveClustering(**{"n_subspaces": 2, **settings})
    with pytest.raises(RecipeError, match=message) as caught:
        model.fit(planted(20))
    assert isinstance(caught.value, ValueError)
    assert not hasattr(model, "labels_")


@pytest.mark.parametrize("free_ranks", [False, True])
def test_smallest_keep_ratio_is_named_and_works(free_ranks: bool) -> None:
    """23 rows of 10 features in two subspaces take 43 of 230 numbers: 0.18696, given as 0.1870, rounded up."""
    rows = planted(23)
    settings = {"n_subspaces": 2, "free_ranks": free_ranks, "random_state": 0}
    message = r"`keep_ratio` 0\.15 keeps 34 of 230 numbers, .* rank 1 in 2 subspaces; hint: raise it to 0\.1870 or"
    with pytest.raises(BudgetError, match=message):
        ProjectiveClustering(keep_ratio=0.15, **settings).fit(rows)
    model = ProjectiveClustering(keep_ratio=0.187, **settings).fit(rows)
    assert parameters(model.labels_, model.ranks_, 10) <= 43


def test_smallest_keep_ratio_that_is_named_is_never_below_the_limit() -> None:
    """21 + 2 x 10 of 210 numbers are 0.19524; a hint of 0.1952 would be refused again."""
    with pytest.raises(BudgetError, match=r"raise it to 0\.1953 or lower `n_subspaces`"):
        ProjectiveClustering(2, keep_ratio=0.1952).fit(planted(21))


def test_too_many_subspaces_for_any_keep_ratio() -> None:
    """20 subspaces of 20 rows take 220 of 200 numbers: no keep ratio helps, so none is named."""
    with pytest.raises(BudgetError, match=r"in 20 subspaces; hint: lower `n_subspaces`$"):
        ProjectiveClustering(20, keep_ratio=1.0).fit(planted(20))


@pytest.mark.parametrize("method", ["fit", "score"])
def test_weights_that_cannot_be_used_are_named(method: str) -> None:
    """Negative entries are counted, and a table of which no row counts is no table."""
    rows = planted(20)
    use = getattr(equal(2).fit(rows), method)
    with pytest.raises(DataError, match=r"`sample_weight` has 2 negative entries; hint: weights are at least 0"):
        use(rows, sample_weight=np.r_[-1.0, -2.0, np.ones(18)])
    with pytest.raises(DataError, match=r"`sample_weight` is all zero; hint: give at least one row a positive"):
        use(rows, sample_weight=np.zeros(20))
