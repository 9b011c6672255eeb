import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.filters.oracle import slow_sensitivity
from torch import Tensor, nn

from foldflat.errors import DataError, RecipeError, UnsupportedModelError
from foldflat.filters import shares
from foldflat.filters.saliency import SensitivityMeter, sensitivity


def drawn(layer: Any, *shape: int, seed: int = 0, signed: bool = True) -> tuple[Any, Tensor]:
    """Return `layer` and inputs of `shape`, both normal and partly zero, or with all shares active and few of them one.

    The latter: no input is negative, nor are the weights, or all weights of an output are.
    """
    generator = torch.Generator().manual_seed(seed)
    turned = isinstance(layer, nn.ConvTranspose2d)
    for parameter in layer.parameters():
        values = torch.randn(parameter.shape, generator=generator)
        signs = torch.randn(1 if turned else len(values), *[1] * (values.dim() - 1), generator=generator).sign()
        kept = torch.rand(parameter.shape, generator=generator) > 0.2
        parameter.data = values * kept if signed else (values.abs() + 0.1) * signs
    inputs = torch.randn(shape, generator=generator)
    return layer, inputs if signed else inputs.abs() + 0.05


def test_golden_value_of_a_linear_layer() -> None:
    """By hand: shares 1/4 and 3/4 of the first output, 4/5 and 1/5 of the second; negative pairs give 1 alone."""
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[1.0, 1.0], [4.0, 1 / 3]])
    layer.bias.data.fill_(100)
    torch.testing.assert_close(sensitivity(layer, torch.tensor([[1.0, 3.0]])), torch.tensor([0.8, 0.75]))
    torch.testing.assert_close(sensitivity(layer, torch.tensor([[1.0, -3.0]])), torch.tensor([1.0, 1.0]))
    layer.weight.data[:, 1] *= -1
    torch.testing.assert_close(sensitivity(layer, torch.tensor([[1.0, 3.0]])), torch.tensor([1.0, 1.0]))


def test_golden_value_of_a_window() -> None:
    """Taps (1, 2) and (3, 4) on inputs (1, 1), (1, 1) give 3 of 10 and 7 of 10; the largest taps alone 2 and 4."""
    layer = nn.Conv1d(2, 1, 2)
    layer.weight.data = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    inputs = torch.ones(1, 2, 2)
    torch.testing.assert_close(sensitivity(layer, inputs), torch.tensor([0.3, 0.7]))
    torch.testing.assert_close(sensitivity(layer, inputs, window="maximum"), torch.tensor([0.2, 0.4]))


CONVOLUTIONS = [
    (kernel, stride, padding, dilation, groups)
    for kernel, stride, padding, dilation, groups in itertools.product(
        (1, 3, (2, 3)), (1, 2), (0, 1, (2, 0), "same"), (1, 2), (1, 2, 4)
    )
    if padding != "same" or stride == 1
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_convolutions_agree_with_the_slow_way(
    kernel: Any, stride: int, padding: Any, dilation: int, groups: int
) -> None:
    """Every kernel, stride, padding, dilation and number of groups, with signed inputs and with none negative."""
    for seed, signed in enumerate((True, False)):
        layer = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups, bias=signed)
        layer, inputs = drawn(layer, 2, 4, 5, 6, seed=seed, signed=signed)
        torch.testing.assert_close(sensitivity(layer, inputs), slow_sensitivity(layer, inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_padding_modes_and_dimensions_agree_with_the_slow_way(dimensions: int, mode: str) -> None:
    """Conv1d, Conv2d and Conv3d, each with every way to pad."""
    kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    layer, inputs = drawn(kind(4, 4, 3, padding=2, groups=2, padding_mode=mode), 1, 4, *[4] * dimensions, signed=False)
    torch.testing.assert_close(sensitivity(layer, inputs), slow_sensitivity(layer, inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("stride", "padding", "more"), [(1, 0, 0), (2, 1, 1), (3, 2, 0), ((2, 3), (0, 3), (1, 2))])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_agree_with_the_slow_way(stride: Any, padding: Any, more: Any, groups: int) -> None:
    """Zeros between the inputs and a turned kernel make the same shares as torch's own transposed convolution."""
    layer = nn.ConvTranspose2d(4, 6, (3, 2), stride, padding, more, groups=groups, dilation=(1, 2))
    layer, inputs = drawn(layer, 2, 4, 5, 4, signed=False)
    torch.testing.assert_close(sensitivity(layer, inputs), slow_sensitivity(layer, inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (2, 3, 2, 7)])
def test_linear_layers_agree_with_the_slow_way(shape: tuple[int, ...], signed: bool) -> None:
    """Every position in front of the features is a patch; so is every column its own channel."""
    layer, inputs = drawn(nn.Linear(7, 5), *shape, signed=signed)
    torch.testing.assert_close(sensitivity(layer, inputs), slow_sensitivity(layer, inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [[0, 0, 0, 1, 1, 1], [2, 0, 1, 0, 2, 2], [0, 3, 3, 3, 3, 1]])
def test_columns_of_one_channel_share_as_one(channels: list[int]) -> None:
    """Behind a flatten a channel has several columns, in any order and number; a channel without any has none."""
    own = torch.tensor(channels)
    layer, inputs = drawn(nn.Linear(6, 5), 4, 6, signed=False)
    found = sensitivity(layer, inputs, channels=own)
    assert found.shape == (int(own.max()) + 1,)
    torch.testing.assert_close(found, slow_sensitivity(layer, inputs, channels=own), atol=1e-5, rtol=0)
    assert torch.equal(found > 0, torch.bincount(own) > 0)


def test_the_largest_tap_agrees_with_the_slow_way() -> None:
    """`window="maximum"` is the elementwise maximum of the authors' code, never above the window's sum."""
    layer, inputs = drawn(nn.Conv2d(4, 6, 3, padding=1, groups=2), 3, 4, 6, 6, signed=False)
    found = sensitivity(layer, inputs, window="maximum")
    torch.testing.assert_close(found, slow_sensitivity(layer, inputs, maximum=True), atol=1e-5, rtol=0)
    assert (found <= sensitivity(layer, inputs)).all()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("outputs", [1, 3, 64])
def test_what_bounds_leave_out_never_matters(outputs: int, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small blocks of outputs, images and positions, most of them skipped, against every share computed."""
    monkeypatch.setattr(shares, "_OUTPUTS", outputs)
    layer, inputs = drawn(nn.Conv2d(12, 10, 3, padding=1), 40, 12, 8, 8, signed=signed)
    windows = nn.functional.unfold(inputs, 3, padding=1).unflatten(1, (12, 9)).double()
    weight = layer.weight.detach().double().flatten(2)
    expected = torch.zeros(12)
    for a, w in itertools.product((windows, -windows), (weight, -weight)):
        parts = torch.einsum("nckp,ock->nocp", a.clamp_min(0), w.clamp_min(0))
        ratios = parts / parts.sum(2, keepdim=True).clamp_min(torch.finfo(torch.float32).eps)
        expected = expected.maximum(ratios.amax((0, 1, 3)).float())
    meter = SensitivityMeter(layer)
    monkeypatch.setattr("foldflat.filters.saliency.BLOCK_ELEMENTS", 1 << 14)
    for part in inputs.split(8):
        meter.update(part)
    torch.testing.assert_close(meter.value, expected, atol=1e-5, rtol=0)


def test_most_shares_are_never_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 channels at 25,600 positions and both signs, the bounds leave less than two thirds to compute."""
    layer, inputs = drawn(nn.Conv2d(16, 16, 3, padding=1), 100, 16, 16, 16, signed=False)
    computed = []
    whole = shares.LargestShares._raise_tiles

    def counting(self: Any, search: Any, rows: Tensor, spots: Tensor) -> None:
        computed.append(spots.numel())
        whole(self, search, rows, spots)

    monkeypatch.setattr(shares.LargestShares, "_raise_tiles", counting)
    sensitivity(layer, inputs)
    assert 0 < sum(computed) < 2 / 3 * 2 * 16 * 25600


def test_order_of_channels_and_batch_changes_nothing() -> None:
    """Permuted channels have permuted sensitivities; a permuted batch, or one in several parts, the same."""
    layer, inputs = drawn(nn.Conv2d(6, 5, 3), 8, 6, 7, 7, signed=False)
    expected = sensitivity(layer, inputs)
    generator = torch.Generator().manual_seed(1)
    images, order = torch.randperm(8, generator=generator), torch.randperm(6, generator=generator)
    torch.testing.assert_close(sensitivity(layer, inputs[images]), expected)
    meter = SensitivityMeter(layer)
    for part in inputs.split(3):
        meter.update(part)
    torch.testing.assert_close(meter.value, expected)
    layer.weight.data = layer.weight.data[:, order]
    torch.testing.assert_close(sensitivity(layer, inputs[:, order]), expected[order])


def test_memory_is_bounded_by_parts_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image larger than the block is walked some rows at a time, with the rows that neighbouring windows share."""
    layer, inputs = drawn(nn.Conv2d(4, 3, 3, stride=2, padding=1, dilation=2), 2, 4, 31, 9, signed=False)
    expected = sensitivity(layer, inputs)
    sizes = []
    whole = shares.LargestShares.update

    def watching(self: Any, signals: Tensor) -> None:
        sizes.append(signals.shape[2])
        whole(self, signals)

    monkeypatch.setattr(shares.LargestShares, "update", watching)
    monkeypatch.setattr("foldflat.filters.saliency.BLOCK_ELEMENTS", 400)
    torch.testing.assert_close(sensitivity(layer, inputs), expected)
    assert max(sizes) < 12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_numbers_of_any_width(dtype: torch.dtype) -> None:
    """Half precision is computed in float32, float64 in float64."""
    layer, inputs = drawn(nn.Conv2d(3, 4, 3), 2, 3, 6, 6, signed=False)
    layer, inputs = layer.to(dtype), inputs.to(dtype)
    found = sensitivity(layer, inputs)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.float(), slow_sensitivity(layer, inputs), atol=1e-5, rtol=0)
    assert not found.requires_grad


@pytest.mark.parametrize(("kernel", "channels"), [(1, 3), (3, 3), (3, 1)])
def test_the_order_of_numbers_in_memory_changes_nothing(kernel: int, channels: int) -> None:
    """Channels last, or every second image of a larger batch."""
    layer, inputs = drawn(nn.Conv2d(channels, 4, kernel), 4, channels, 6, 6, signed=False)
    expected = sensitivity(layer, inputs[::2].contiguous())
    torch.testing.assert_close(sensitivity(layer, inputs[::2]), expected)
    layer = layer.to(memory_format=torch.channels_last)
    found = sensitivity(layer, inputs[::2].contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)


def test_depthwise_channels_have_their_output_alone() -> None:
    """With one channel a group the share is 1, or 0 where the channel is never active."""
    layer, inputs = drawn(nn.Conv2d(4, 8, 3, groups=4), 2, 4, 6, 6)
    inputs[:, 2] = 0
    assert sensitivity(layer, inputs).tolist() == [1, 1, 0, 1]


def test_tiny_denominators_count_as_none() -> None:
    """Up to float32's epsilon a denominator gives share 0, just above it a share."""
    layer = nn.Linear(2, 1)
    layer.weight.data.fill_(1)
    assert sensitivity(layer, torch.tensor([[5e-8, 5e-8]])).tolist() == [0, 0]
    assert sensitivity(layer, torch.tensor([[5e-8, 1.5e-7]])).tolist() == pytest.approx([0.25, 0.75])
    assert sensitivity(layer, torch.tensor([[1, 3], [1e-7, 0]])).tolist() == pytest.approx([0.25, 0.75])
    assert sensitivity(layer, torch.tensor([[1, 3], [1.9e-7, 0.1e-7]])).tolist() == pytest.approx([0.95, 0.75])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3]), st.booleans(), st.sampled_from([1e-3, 1.0, 1e4]))
def test_sensitivities_are_shares(seed: int, groups: int, signed: bool, size: float) -> None:
    """Each is in [0, 1], those of an active group add up to at least 1, and scaling the inputs changes none."""
    layer, inputs = drawn(nn.Conv2d(6, 6, 3, groups=groups), 2, 6, 5, 5, seed=seed, signed=signed)
    found = sensitivity(layer, inputs)
    assert ((found >= 0) & (found <= 1)).all()
    assert (found.view(groups, -1).sum(1) >= 1 - 1e-5).all()
    torch.testing.assert_close(sensitivity(layer, size * inputs), found, atol=1e-5, rtol=0)


def test_drawn_patches_never_say_more() -> None:
    """Some positions of each input give a lower estimate, the same for one seed; all of them the exact value."""
    layer, inputs = drawn(nn.Conv2d(6, 4, 3, stride=2, groups=2), 8, 6, 9, 9, signed=False)
    exact = sensitivity(layer, inputs)
    some = sensitivity(layer, inputs, patches=4, seed=3)
    assert (some <= exact + 1e-6).all()
    assert (some < exact - 1e-3).any()
    assert torch.equal(some, sensitivity(layer, inputs, patches=4, seed=3))
    torch.testing.assert_close(sensitivity(layer, inputs, patches=16), exact)
    linear, tokens = drawn(nn.Linear(6, 5), 3, 20, 6)
    assert (sensitivity(linear, tokens, patches=2) <= sensitivity(linear, tokens) + 1e-6).all()


def test_a_single_input_needs_no_batch_axis() -> None:
    """(c, h, w) is taken as a batch of one, as torch's layers take it."""
    layer, inputs = drawn(nn.Conv2d(3, 4, 3), 1, 3, 6, 6)
    assert torch.equal(sensitivity(layer, inputs[0]), sensitivity(layer, inputs))


def test_bad_inputs_are_refused_with_a_way_out() -> None:
    """Each message gives what was found, the limit and a hint; the meter is left as it was."""
    layer, inputs = drawn(nn.Conv2d(3, 4, 3), 2, 3, 6, 6)
    meter = SensitivityMeter(layer)
    with pytest.raises(DataError, match=r"shape \(0, 3, 6, 6\), no numbers; hint: give one or more"):
        meter.update(inputs[:0])
    with pytest.raises(DataError, match=r"shape \(2, 2, 6, 6\), it takes .* \(n, 3, size, size\); hint: hand over"):
        meter.update(inputs[:, :2])
    with pytest.raises(DataError, match=r"torch.int64 of shape .* takes floating-point"):
        meter.update(inputs.long())
    with pytest.raises(DataError, match=r"\(2, 3, 6, 2\), smaller than its window; hint: larger images"):
        meter.update(inputs[..., :2])
    for value, text in ((torch.nan, "1 of 216 numbers are NaN, 0 are inf"), (torch.inf, "0 of 216 numbers are NaN, 1")):
        bad = inputs.clone()
        bad[1, 2, 3, 4] = value
        with pytest.raises(DataError, match=rf"{text}.*hint: look"):
            meter.update(bad)
    with pytest.raises(DataError, match=r"go up to 1e\+30 .* above the limit of 1e\+30; hint: scale them"):
        meter.update(1e30 * inputs.clamp(0, 1).ceil())
    assert not meter.value.any()


def test_bad_settings_are_refused() -> None:
    """Layers without channels, weights that are not finite, windows and patches that do not exist."""
    layer, inputs = drawn(nn.Linear(4, 2), 3, 4)
    with pytest.raises(UnsupportedModelError, match=r"LayerNorm has no input channels .*hint: Conv1d"):
        sensitivity(nn.LayerNorm(4), inputs)
    with pytest.raises(RecipeError, match="`patches` is 0, the least is 1; hint: None"):
        sensitivity(layer, inputs, patches=0)
    with pytest.raises(RecipeError, match="`window` is 'mean'; hint:"):
        sensitivity(layer, inputs, window="mean")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"`channels` is torch.int64 of shape \(3,\).*4 columns.*hint: torch.arange"):
        sensitivity(layer, inputs, channels=torch.arange(3))
    with pytest.raises(DataError, match="`channels` is for Linear, not for Conv2d; hint: leave it out"):
        SensitivityMeter(nn.Conv2d(4, 2, 1), channels=torch.arange(4))
    layer.weight.data[0, 0] = torch.nan
    with pytest.raises(DataError, match="weight of this Linear: 1 of 8 numbers are NaN"):
        sensitivity(layer, inputs)
