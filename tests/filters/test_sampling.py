from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from foldflat.errors import DataError, RecipeError
from foldflat.filters.bounds import epsilon_supported, expected_distinct, samples_needed
from foldflat.filters.saliency import sensitivity
from foldflat.filters.sampling import Sample, draw_hybrid, draw_random, keep_largest
from foldflat.randomness import spawn_seeds

Draw = Callable[[Tensor, int, int], Sample]
SKEWED = torch.tensor([0.4, 0.0, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01], dtype=torch.float64)


def spread(sample: Sample, channels: int) -> Tensor:
    """Return (c,) factors, 0 for channels that go."""
    return torch.zeros(channels, dtype=torch.float64).index_put((sample.kept,), sample.factors)


@pytest.mark.parametrize("draw", [draw_random, draw_hybrid])
def test_the_expected_weights_are_the_weights(draw: Draw) -> None:
    """E[W_hat] = W: over 4,000 seeds the mean factor of each channel that can be drawn is 1 within 4.5 deviations."""
    trials = torch.stack([spread(draw(SKEWED, 6, seed), 8) for seed in spawn_seeds(0, 4000)])
    possible = SKEWED > 0
    deviation = ((1 - SKEWED[possible]) / (6 * SKEWED[possible]) / 4000).sqrt()
    assert ((trials.mean(0)[possible] - 1).abs() <= 4.5 * deviation).all()
    assert not trials[:, ~possible].any()


def test_draws_bring_as_many_channels_as_expected() -> None:
    """The mean number of kept channels over 2,000 seeds is that of `expected_distinct`."""
    counts = torch.tensor([len(draw_random(SKEWED, 6, seed).kept) for seed in spawn_seeds(1, 2000)]).double()
    assert float(counts.mean()) == pytest.approx(expected_distinct(SKEWED, 6), abs=4 * float(counts.std()) / 2000**0.5)


def test_factors_count_the_draws() -> None:
    """n_j = factor x m x p_j are whole numbers with sum m, and two seeds draw differently."""
    sample = draw_random(SKEWED, 50, 3)
    counts = sample.factors * 50 * SKEWED[sample.kept]
    torch.testing.assert_close(counts, counts.round())
    assert float(counts.sum()) == pytest.approx(50)
    assert not torch.equal(spread(sample, 8), spread(draw_random(SKEWED, 50, 4), 8))


def test_hybrid_keeps_large_channels_for_sure_and_varies_less() -> None:
    """With 10 draws the channels of 0.1 and more have factor 1 for every seed; the others' are those of the draws."""
    for seed in range(50):
        hybrid, random = spread(draw_hybrid(SKEWED, 10, seed), 8), spread(draw_random(SKEWED, 10, seed), 8)
        assert torch.equal(hybrid[[0, 2, 3, 4]], torch.ones(4, dtype=torch.float64))
        assert torch.equal(hybrid[[1, 5, 6, 7]], random[[1, 5, 6, 7]])


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(0, 60))
def test_more_draws_keep_what_fewer_kept(seed: int, draws: int, more: int) -> None:
    """All three ways are nested, exactly; hybrid contains random."""
    for draw in (draw_random, draw_hybrid):
        few, many = draw(SKEWED, draws, seed).kept, draw(SKEWED, draws + more, seed).kept
        assert set(few.tolist()) <= set(many.tolist())
        assert torch.equal(many, many.sort().values)
    assert set(draw_random(SKEWED, draws, seed).kept.tolist()) <= set(draw_hybrid(SKEWED, draws, seed).kept.tolist())
    assert set(keep_largest(SKEWED, 3).kept.tolist()) <= set(keep_largest(SKEWED, 5).kept.tolist())


def test_many_draws_are_made_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws come out of one block and of many."""
    expected = draw_random(SKEWED, 1000, 5)
    monkeypatch.setattr("foldflat.filters.sampling.BLOCK_ELEMENTS", 7)
    assert torch.equal(draw_random(SKEWED, 1000, 5).factors, expected.factors)


def test_the_largest_stay_as_they_are() -> None:
    """Ascending positions, factors of one, the first of equals."""
    sample = keep_largest(torch.tensor([0.1, 0.3, 0.1, 0.4, 0.1]), 3)
    assert sample.kept.tolist() == [0, 1, 3]
    assert sample.factors.tolist() == [1, 1, 1]
    assert keep_largest(SKEWED, 8).kept.tolist() == list(range(8))


@pytest.mark.parametrize("draw", [draw_random, draw_hybrid])
def test_the_error_bound_holds_at_its_rate(draw: Draw) -> None:
    """On 20,000 channels of like size, epsilon = 1/2 and delta = 1/10 take fewer draws than channels and hold.

    Of 200 draws, each with an input of its own that the sensitivities never saw, at most a tenth may fail; with four
    draws in place of those promised, more than a tenth do.
    """
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(20000, 4, bias=False)
    layer.weight.data = (torch.rand(4, 20000, generator=generator) + 0.5) * torch.tensor([[1.0], [1], [-1], [-1]])
    layer.weight.data[1::2] *= torch.randn(20000, generator=generator).sign()
    found = sensitivity(layer, torch.rand(40, 20000, generator=generator) + 0.5).double()
    total = float(found.sum())
    draws = samples_needed(total, 0.5, 0.1, 1, 1)
    assert draws < 15000
    assert expected_distinct(found / total, draws) < 10000
    assert epsilon_supported(total, draws, 0.1, 1, 1) <= 0.5

    def failures(draws: int) -> int:
        failed = 0
        for seed in spawn_seeds(2, 200):
            products = layer.weight.detach().double() * (torch.rand(20000, generator=generator) + 0.5)
            change = (products @ (spread(draw(found / total, draws, seed), 20000) - 1)).abs()
            failed += bool((change > 0.5 * products.abs().sum(1)).any())
        return failed

    assert failures(draws) <= 20
    assert failures(4) > 20


def test_settings_out_of_range_are_refused() -> None:
    """No draws, no channels, more channels than there are, no probabilities."""
    for draw in (draw_random, draw_hybrid):
        with pytest.raises(RecipeError, match="`draws` is 0, the least is 1; hint: `draws_for_distinct`"):
            draw(SKEWED, 0, 0)
        with pytest.raises(DataError, match="hint: divide the sensitivities"):
            draw(torch.ones(3), 2, 0)
    for count in (0, 9):
        with pytest.raises(RecipeError, match=f"`count` is {count}, and there are 8 channels; hint: keep 1 to 8"):
            keep_largest(SKEWED, count)
