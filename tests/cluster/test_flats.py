"""Flats under other losses: every step lowers the stated cost, and outliers do not decide."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.cluster.test_alternate import awkward_tables
from tests.tiny import planted_table
from torch import Tensor

from foldflat import ProjectiveClustering
from foldflat.cluster.flats import FlatSettings, fit_flats
from foldflat.cluster.losses import LOSSES
from foldflat.cluster.rows import distinct_rows
from foldflat.errors import RecipeError

ROBUST: list[dict[str, Any]] = [{"power": 1.0}, *({"loss": name} for name in LOSSES if name != "power")]


def name_of(settings: dict[str, Any]) -> str:
    """Return a short name for a test."""
    return str(settings.get("loss", "power 1" if settings else "squares"))


@given(
    awkward_tables(),
    st.sampled_from([("power", 2.0), ("power", 1.5), ("power", 1.0), *((name, 2.0) for name in LOSSES[1:])]),
    st.booleans(),
    st.integers(0, 99),
)
def test_costs_never_rise(
    case: tuple[Tensor, Tensor | None, int], loss: tuple[str, float], affine: bool, seed: int
) -> None:
    """Whatever the rows, the loss and the flats: the stated cost falls or stands, step by step."""
    table, weights, k = case
    rows = distinct_rows(table.double(), weights)
    rank = min(1 + seed % 3, rows.n_features)
    settings = FlatSettings(k, rank, affine, *loss, None, "random", 25, 0.0)
    flats = fit_flats(rows, settings, [seed])
    costs = np.array(flats.costs)
    assert len(costs) > 0
    assert np.isfinite(costs).all()
    noise = 1e-9 * (1 + float((rows.weights * rows.squared_norms()).sum()))
    assert (np.diff(costs) <= noise).all(), costs
    for basis, offset in zip(flats.bases, flats.offsets, strict=True):
        assert (basis @ offset).abs().max() < 1e-6
        if basis.any():
            torch.testing.assert_close(basis @ basis.T, torch.eye(rank, dtype=basis.dtype), atol=1e-6, rtol=0)


def outliers(seed: int) -> tuple[Any, Any, Any]:
    """Draw 600 rows near two planes of 12 dimensions, 5 % of them replaced by long ones in any direction."""
    table, labels = planted_table(600, 12, 2, 2, noise=0.02, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    gross = torch.randperm(600, generator=generator)[:30]
    table[gross] = 4 * torch.randn(30, 12, generator=generator)
    clean = np.setdiff1d(np.arange(600), gross.numpy())
    return table.numpy(), labels.numpy(), clean


def recovered(model: ProjectiveClustering, rows: Any, clean: Any) -> bool:
    """Return whether the clean rows are rebuilt to within the noise."""
    lost = np.square(rows[clean] - model.reconstruct(rows)[clean]).sum()
    return bool(lost < 5 * len(clean) * 12 * 0.02**2)


@pytest.mark.parametrize("settings", [{}, *ROBUST], ids=name_of)
def test_outliers_spoil_the_square_and_not_the_robust_losses(settings: dict[str, Any]) -> None:
    """On four tables with 5 % gross outliers squares lose a plane to them; with one of these losses none is lost."""
    for seed in range(4):
        rows, _, clean = outliers(seed)
        model = ProjectiveClustering(2, 2, init="random", n_init=10, random_state=0, **settings)
        assert recovered(model.fit(rows), rows, clean) == bool(settings)


def test_affine_flats_need_not_pass_through_the_origin() -> None:
    """Three planes far from the origin are found exactly; linear subspaces of that rank are not."""
    table, labels = planted_table(300, 8, 3, 2, noise=0.0)
    centres = 5 * torch.randn(3, 8, generator=torch.Generator().manual_seed(5))
    rows = (table + centres[labels]).numpy()
    model = ProjectiveClustering(3, 2, affine=True, n_init=5, random_state=0).fit(rows)
    assert model.cost_ < 1e-6 * np.square(rows).sum()
    assert ProjectiveClustering(3, 2, n_init=5, random_state=0).fit(rows).cost_ > 1e-3 * np.square(rows).sum()
    np.testing.assert_allclose(model.reconstruct(rows), rows, atol=1e-3)
    assert len({tuple(pair) for pair in zip(model.labels_, labels.tolist(), strict=True)}) == 3
    moved = ProjectiveClustering(3, 2, affine=True, n_init=5, random_state=0).fit(rows + 2)
    assert moved.cost_ < 1e-6 * np.square(rows).sum()
    for basis, offset in zip(model.bases_, model.offsets_, strict=True):
        np.testing.assert_allclose(basis @ offset, 0, atol=1e-4)


@pytest.mark.parametrize("settings", [{"power": 1.3}, {"loss": "tukey"}, {"affine": True}], ids=str)
def test_the_cost_is_that_of_the_residuals(settings: dict[str, Any]) -> None:
    """`cost_` and `-score` are the weighted sum of the loss of each row's distance to its reconstruction."""
    rows = planted_table(200, 6, 2, 2, noise=0.3)[0].numpy().astype(np.float64)
    weights = np.random.default_rng(0).integers(1, 4, 200)
    model = ProjectiveClustering(2, 2, random_state=0, **settings).fit(rows, sample_weight=weights)
    distances = np.linalg.norm(rows - model.reconstruct(rows), axis=1)
    if "power" in settings:
        values = distances**1.3
    elif "loss" in settings:
        c = model.scale_
        values = c**2 / 6 * (1 - np.clip(1 - (distances / c) ** 2, 0, None) ** 3)
    else:
        values = distances**2
    assert model.cost_ == pytest.approx(float(weights @ values), rel=1e-9)
    assert model.score(rows, sample_weight=weights) == pytest.approx(-model.cost_, rel=1e-9)
    assert model.costs_[-1] == pytest.approx(model.cost_, rel=1e-3)
    twice = np.repeat(rows, weights, axis=0)
    assert ProjectiveClustering(2, 2, random_state=0, **settings).fit(twice).cost_ == pytest.approx(model.cost_)


def test_at_their_limits_the_losses_are_squares() -> None:
    """A Huber loss whose scale nothing reaches is half the square: the same labels and twice the cost."""
    rows = planted_table(200, 6, 2, 2, noise=0.3)[0].numpy()
    plain = ProjectiveClustering(2, 2, random_state=0, tol=0).fit(rows)
    huber = ProjectiveClustering(2, 2, random_state=0, tol=0, loss="huber", loss_scale=1e6).fit(rows)
    assert np.array_equal(plain.labels_, huber.labels_)
    assert huber.cost_ == pytest.approx(plain.cost_ / 2, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"power": 0.5}, r"`power` is 0.5, outside \[1, 2\]"),
        ({"power": 3}, r"outside \[1, 2\]"),
        ({"loss": "lorentz"}, "which is unknown"),
        ({"loss": "huber", "power": 1}, "leave one at its default"),
        ({"loss_scale": 1.0}, "only with an M-estimator"),
        ({"loss": "huber", "loss_scale": 0.0}, "above 0"),
        ({"affine": True, "free_ranks": True, "keep_ratio": 0.5, "rank": None}, "set free_ranks=False"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    """Each with the way out."""
    rows = planted_table(50, 6, 2, 2)[0].numpy()
    with pytest.raises(RecipeError, match=message):
        ProjectiveClustering(**({"n_subspaces": 2, "rank": 2} | settings)).fit(rows)
