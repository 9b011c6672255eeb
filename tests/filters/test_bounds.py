import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foldflat.errors import DataError, RecipeError
from foldflat.filters.bounds import (
    checked_probabilities,
    delta_supported,
    draws_for_distinct,
    dropped_mass_bound,
    epsilon_supported,
    expected_distinct,
    inputs_needed,
    samples_needed,
)
from foldflat.filters.saliency import sensitivity


def skewed(count: int, seed: int = 0) -> Tensor:
    """Return probabilities that span some orders of magnitude."""
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2).exp()
    return values / values.sum()


def test_golden_values_of_distinct_draws() -> None:
    """By hand: 1/2 and 1/2 give 1, 1.5, 1.75; 1/4 and 3/4 after two draws 2 - 9/16 - 1/16; none after none."""
    half = torch.tensor([0.5, 0.5])
    assert [expected_distinct(half, m) for m in (0, 1, 2, 3)] == pytest.approx([0, 1, 1.5, 1.75])
    assert expected_distinct(torch.tensor([0.25, 0.75]), 2) == pytest.approx(1.375)
    assert expected_distinct(torch.tensor([1.0, 0.0]), 5) == 1
    assert draws_for_distinct(half, 1.75) == pytest.approx(3, rel=1e-12)


def test_distinct_draws_agree_with_monte_carlo() -> None:
    """4,000 repetitions of 30 draws from 50 unequal channels, within four standard errors."""
    p = skewed(50)
    drawn = torch.multinomial(p.expand(4000, -1), 30, replacement=True, generator=torch.Generator().manual_seed(1))
    distinct = torch.zeros(4000, 50).scatter_(1, drawn, 1).sum(1).double()
    error = 4 * float(distinct.std()) / 4000**0.5
    assert expected_distinct(p, 30) == pytest.approx(float(distinct.mean()), abs=error)


@given(st.integers(2, 400), st.integers(0, 1000), st.floats(0, 0.999))
def test_draws_for_distinct_is_the_inverse(count: int, seed: int, share: float) -> None:
    """From channels to draws and back, for probabilities of very different sizes."""
    p = skewed(count, seed)
    draws = draws_for_distinct(p, share * count)
    assert expected_distinct(p, draws) == pytest.approx(share * count, rel=1e-9, abs=1e-9)


def test_tiny_probabilities_and_huge_draws_are_exact() -> None:
    """1e15 draws at 1e-15 bring a channel with probability 1 - 1/e, where 1 - p rounds to 1; 1e30 bring it surely."""
    p = torch.tensor([1 - 1e-15, 1e-15], dtype=torch.float64)
    assert expected_distinct(p, 1e15) == pytest.approx(2 - 1 / math.e, rel=1e-12)
    assert expected_distinct(p, 1e30) == 2
    assert draws_for_distinct(p, 2 - 1 / math.e) == pytest.approx(1e15, rel=1e-9)


def test_all_channels_take_forever_and_a_single_one_takes_a_draw() -> None:
    """The ends of the inverse."""
    assert draws_for_distinct(torch.tensor([0.5, 0.5]), 2) == math.inf
    assert draws_for_distinct(torch.tensor([0.0, 1.0]), 1) == 1
    assert draws_for_distinct(torch.tensor([0.0, 1.0]), 0) == 0


def test_golden_values_of_the_bound() -> None:
    """By hand: ln(8 x 2 x 1 / 0.016) = ln 1000 = 6.90776, alpha = 41.4465; S = 2, epsilon = 1: 3 x 8 x 41.4465 x 2.

    S = 2, epsilon = 0.5: 3 x 7 x 41.4465 x 2 / 0.25. A window of 9 taps at 99 positions: ln(8 x 100 x 9 / 0.072).
    """
    assert samples_needed(2, 1, 0.016, 1, 1) == math.ceil(1989.4344) == 1990
    assert samples_needed(2, 0.5, 0.016, 1, 1) == math.ceil(6963.0204) == 6964
    assert samples_needed(1, 1, 0.072, 99, 9) == math.ceil(24 * 6 * math.log(1e5)) == 1658


@given(st.floats(1e-3, 1e4), st.floats(1e-3, 1e3), st.sampled_from([1e-16, 0.05, 0.9]), st.integers(1, 10**5))
def test_epsilon_supported_is_the_inverse(total: float, epsilon: float, delta: float, patches: int) -> None:
    """The samples that an epsilon needs support it, one fewer do not."""
    draws = samples_needed(total, epsilon, delta, patches, 9)
    assert epsilon_supported(total, draws, delta, patches, 9) <= epsilon * (1 + 1e-9)
    if draws > 1:
        assert epsilon_supported(total, draws - 1, delta, patches, 9) >= epsilon * (1 - 1e-9)


def test_golden_values_of_inputs() -> None:
    """By hand: 64 filters at most of 688 in all, delta 1e-16: 3 (ln 352256 + 16 ln 10) = 3 x 49.6134 = 148.84."""
    assert inputs_needed(688, 64, 1e-16) == 149
    assert delta_supported(149, 688, 64) <= 1e-16 < delta_supported(148, 688, 64)
    assert delta_supported(0, 688, 64) == 1
    assert delta_supported(3, 1, 1) == 1
    assert delta_supported(9, 1, 1) == pytest.approx(8 * math.exp(-3))


def test_dropped_mass_bounds_the_error_on_the_measured_inputs() -> None:
    """Golden sums; and |z_hat - z| <= epsilon (z+ + z-) at every output of every input, with signs."""
    s = torch.tensor([0.5, 0.25, 0.125])
    assert dropped_mass_bound(s, torch.tensor([0])) == 0.375
    assert dropped_mass_bound(s, torch.tensor([2, 0, 1])) == 0
    assert dropped_mass_bound(torch.ones(3), torch.tensor([], dtype=torch.int64)) == 1
    generator = torch.Generator().manual_seed(0)
    layer, inputs = torch.nn.Linear(200, 20, bias=False), torch.randn(10, 200, generator=generator)
    layer.weight.data = torch.randn(20, 200, generator=generator)
    found = sensitivity(layer, inputs)
    kept = found.argsort(descending=True)[:190]
    epsilon = dropped_mass_bound(found, kept)
    products = layer.weight.detach() * inputs[:, None]
    gone = products.clone().index_fill_(2, kept, 0).sum(2)
    assert 0 < epsilon < 0.9
    assert (gone.abs() <= epsilon * products.abs().sum(2)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: samples_needed(1, 0, 0.1, 1, 1), "`epsilon` is 0; hint: give a finite"),
        (lambda: samples_needed(-1, 1, 0.1, 1, 1), "`total_sensitivity` is -1; hint"),
        (lambda: samples_needed(1, 1, 1.0, 1, 1), "`delta` is 1.0, a probability .*hint: 0.05"),
        (lambda: samples_needed(1, 1, 0.1, 0, 1), "`patches` is 0, the least is 1; hint"),
        (lambda: epsilon_supported(1, 1, 0.1, 1, 0), "`kernel_area` is 0, the least is 1; hint"),
        (lambda: epsilon_supported(1, 0, 0.1, 1, 1), "`draws` is 0; hint"),
        (lambda: inputs_needed(3, 4, 0.1), "4 filters in the widest layer and 3 in all .*hint"),
        (lambda: inputs_needed(3, 3, 0), "`delta` is 0, a probability"),
        (lambda: delta_supported(-1, 3, 3), "`inputs` is -1, the least is 0; hint"),
        (lambda: expected_distinct(torch.ones(1), -1), "`draws` is -1, the least is 0; hint"),
        (lambda: draws_for_distinct(torch.tensor([1.0, 0.0]), 2), "`distinct` is 2, and 1 of 2 .*hint: ask for 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(call: object, message: str) -> None:
    """Each message names the value, the limit and the way out."""
    assert callable(call)
    with pytest.raises(RecipeError, match=message):
        call()


@pytest.mark.parametrize("values", [[], [0.5, 0.4], [1.5, -0.5], [math.nan, 1.0], [[1.0]], [0.0, 0.0]])
def test_what_is_no_probability_is_refused(values: list[float]) -> None:
    """Empty, of another sum, negative, NaN, of two axes, all zero."""
    with pytest.raises(DataError, match=r"probabilities of shape .* hint: divide the sensitivities"):
        checked_probabilities(torch.tensor(values))


def test_kept_channels_must_exist() -> None:
    """Positions beyond the channels, and sensitivities above one."""
    with pytest.raises(DataError, match="`kept` goes from 1 to 3, the channels from 0 to 2; hint: give positions"):
        dropped_mass_bound(torch.ones(3), torch.tensor([1, 3]))
    with pytest.raises(DataError, match=r"sensitivities of shape \(3,\) are not .* hint"):
        dropped_mass_bound(2 * torch.ones(3), torch.tensor([1]))
