"""Check that a bound on the error is met by nearly the smallest replacement, and after few fits."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.embedding.layers import random_table

import foldflat
from foldflat import EmbeddingRecipe
from foldflat.embedding import fitting
from foldflat.embedding.bounded import RatioSearch, svd_losses


def smooth_table(n: int = 800, d: int = 48) -> torch.Tensor:
    """Draw rows whose energy falls slowly with the direction, in another order of directions for each third."""
    table = random_table(n, d) * torch.arange(1, d + 1) ** -0.7
    for shift, part in enumerate(table.chunk(3)):
        part.copy_(part.roll(5 * shift, 1))
    return table


def test_the_losses_of_svd_are_the_tails_of_its_spectrum() -> None:
    """Computed by numpy's way: all is lost at rank 0, nothing at full rank."""
    table = random_table(60, 8)
    energies = np.linalg.svd(table.double().numpy(), compute_uv=False) ** 2
    expected = [energies[rank:].sum() / energies.sum() for rank in range(9)]
    np.testing.assert_allclose(svd_losses(table), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "most_fits"),
    [({"n_subspaces": 3}, 5), ({"n_subspaces": 3, "free_ranks": False}, 7), ({"method": "svd"}, 4)],
)
@pytest.mark.parametrize("max_error", [0.02, 0.1, 0.4])
def test_few_fits_find_nearly_the_smallest_size(
    settings: dict[str, Any], most_fits: int, max_error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound holds, and with 2 % fewer parameters it would not."""
    table = smooth_table()
    fits: list[float] = []
    fit_subspaces = fitting._fit_subspaces

    def counted(*arguments: Any) -> Any:
        fits.append(arguments[2])
        return fit_subspaces(*arguments)

    monkeypatch.setattr(fitting, "_fit_subspaces", counted)
    report = foldflat.compress(table, EmbeddingRecipe(max_error=max_error, **settings)).report
    assert report["tables"][0]["energy_lost"] <= max_error
    assert len(fits) <= most_fits
    smaller = 0.98 * report["parameters_after"] / table.numel()
    rival = foldflat.compress(table, EmbeddingRecipe(keep_ratio=smaller, **settings)).report
    assert rival["tables"][0]["energy_lost"] > max_error


@pytest.mark.parametrize("threshold", [0.031, 0.3, 0.77, 0.9995])
def test_forecasts_that_miss_end_in_bisection(threshold: float) -> None:
    """A loss that jumps at a ratio, as no table's does: the jump is found to a hundredth, above it and never below."""
    search = RatioSearch(np.linspace(1, 0, 33), (1000, 32), 0.1, first_advantage=0.3)
    met, asked = 2.0, 0
    while (ratio := search.propose()) is not None:
        asked += 1
        if search.learn(ratio, 0.5 if ratio < threshold else 0.01, ratio):
            met = min(met, ratio)
    assert threshold <= met <= threshold + 0.01
    assert asked <= 16
