"""Losses against their definitions written out, and against each other at their limits."""

import numpy as np
import pytest
import torch
from scipy.special import huber as scipy_huber

from foldflat.cluster.losses import LOSSES, loss_named, typical_scale
from foldflat.errors import RecipeError

ESTIMATORS = [name for name in LOSSES if name != "power"]


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("scale", [0.3, 1.0, 7.0])
def test_a_loss_is_increasing_concave_and_has_the_slope_it_says(name: str, scale: float) -> None:
    """In the squared distance: differences are positive, second differences are not, and fit the stated slope."""
    loss = loss_named(name, scale=scale)
    squares = torch.linspace(0, 4 * scale**2, 4001, dtype=torch.float64)
    values, slopes = loss.value(squares), loss.slope(squares)
    step = float(squares[1])
    differences = values.diff() / step
    assert (differences >= -1e-9).all()
    assert (differences.diff() <= 1e-9).all()
    assert values[0] == 0
    middle = (slopes[1:] + slopes[:-1]) / 2
    smooth = (squares[1:] - scale**2).abs() > 2 * step
    assert ((differences - middle).abs()[smooth] < 1e-3).all()


@pytest.mark.parametrize("power", [1.0, 1.3, 2.0])
@pytest.mark.parametrize("smallest", [0.0, 0.01])
def test_a_power_has_the_slope_it_says(power: float, smallest: float) -> None:
    """The derivative by the squared distance, as autograd finds it."""
    loss = loss_named("power", power=power, smallest=smallest)
    squares = torch.linspace(0.1, 9, 50, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(loss.value(squares).sum(), squares)
    torch.testing.assert_close(loss.slope(squares.detach()), expected)


def test_values_worked_out_by_hand() -> None:
    """At r = 1 and r = 3 with c = 2."""
    squares = torch.tensor([1.0, 9.0], dtype=torch.float64)
    expected = {
        "huber": [0.5, 2 * 3 - 2],
        "cauchy": [2 * np.log(1.25), 2 * np.log(3.25)],
        "geman-mcclure": [0.5 / 1.25, 4.5 / 3.25],
        "welsch": [2 * (1 - np.exp(-0.25)), 2 * (1 - np.exp(-2.25))],
        "tukey": [4 / 6 * (1 - 0.75**3), 4 / 6],
        "truncated": [1, 4],
    }
    for name in ESTIMATORS:
        assert loss_named(name, scale=2).value(squares).tolist() == pytest.approx(expected[name])
    assert expected["huber"] == scipy_huber(2, [1.0, 3.0]).tolist()
    assert loss_named("power", power=1).value(squares).tolist() == [1, 3]
    assert loss_named("power", power=2).value(squares).tolist() == [1, 9]


def test_the_scale_of_normal_noise_is_found() -> None:
    """Distances of one normal coordinate: the median times 1.4826 is its standard deviation."""
    distances = 3 * torch.randn(100_001, generator=torch.Generator().manual_seed(0)).abs()
    ones = torch.ones(100_001)
    assert typical_scale("huber", distances, ones) == pytest.approx(1.345 * 3, rel=0.02)
    few = torch.tensor([5.0, 1.0, 2.0])
    heavy = typical_scale("huber", few, torch.tensor([3.0, 1.0, 1.0]))
    assert heavy == pytest.approx(1.345 * 1.4826 * 5)


def test_an_unknown_loss_is_refused() -> None:
    """The message lists those that are known."""
    with pytest.raises(RecipeError, match="'lorentz', which is unknown; hint: choose one of power, huber"):
        loss_named("lorentz")
