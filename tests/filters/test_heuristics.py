"""Check saliencies by hand on networks of a few numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from foldflat.errors import RecipeError
from foldflat.filters.heuristics import batchnorm_scales, filter_norms, random_scores, taylor_scores
from foldflat.model.channels import ChannelMap, trace_channels


class Pooled(nn.Module):
    """Give the mean over positions."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


def followed(model: nn.Module) -> ChannelMap:
    """Trace a network of one input channel."""
    return trace_channels(model.eval(), torch.ones(2, 1, 4, 4))


def of_group(scores: Tensor, channels: ChannelMap, name: str) -> Tensor:
    """Return the scores of the channels that a layer makes."""
    return scores[next(group.channels for group in channels.groups if group.name == name)]


def set_weight(layer: nn.Module, *numbers: float) -> None:
    """Fill a weight in the order of memory."""
    layer.weight.data = torch.tensor(numbers, dtype=torch.float32).reshape(layer.weight.shape)


NORMS = [(1, torch.tensor([3.0, 7.0, 5.0]) / 5), (2, torch.tensor([5.0**0.5, 5.0, 5.0]) / ((10 + 5.0**0.5) / 3))]


@pytest.mark.parametrize(("power", "expected"), NORMS)
def test_filters_have_the_norm_of_their_own_numbers(power: int, expected: Tensor) -> None:
    """In shares of the layer's mean."""
    first = nn.Conv2d(1, 3, (1, 2), bias=False)
    set_weight(first, 1, -2, 3, 4, -5, 0)
    model = Pooled(first, nn.ReLU(), nn.Conv2d(3, 2, 1))
    channels = followed(model)
    torch.testing.assert_close(of_group(filter_norms(model, channels, power), channels, "body.0").float(), expected)


def test_filters_of_a_transposed_layer_lie_along_its_second_axis() -> None:
    """Groups one after the other: outputs 0 and 1 read input 0, outputs 2 and 3 read input 1."""
    first, second = nn.Conv2d(1, 2, 1, bias=False), nn.ConvTranspose2d(2, 4, 1, groups=2, bias=False)
    set_weight(second, 1, 2, 3, 6)
    model = Pooled(first, second, nn.Conv2d(4, 2, 1))
    channels = followed(model)
    scores = of_group(filter_norms(model, channels, 1), channels, "body.1")
    # the groups keep equal sizes, so that outputs 0 and 2 are one channel, and so are 1 and 3
    torch.testing.assert_close(scores.float(), torch.tensor([2.0, 4.0]) / 3)


def test_tied_layers_count_in_shares_of_their_means() -> None:
    """A depthwise layer's filters belong to the channels that it passes on."""
    first, second = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 2, 1, groups=2, bias=False)
    set_weight(first, 1, 3)
    set_weight(second, 500, 100)
    model = Pooled(first, second, nn.Conv2d(2, 2, 1))
    channels = followed(model)
    scores = of_group(filter_norms(model, channels, 1), channels, "body.0").float()
    torch.testing.assert_close(scores, torch.tensor([0.5 + 5 / 3, 1.5 + 1 / 3]) / 2)


def test_batch_norm_scales_count_without_sign() -> None:
    """Of the norm right behind a layer."""
    model = Pooled(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    model.body[1].weight.data = torch.tensor([-0.5, 0.25])
    channels = followed(model)
    assert of_group(batchnorm_scales(model, channels), channels, "body.0").tolist() == [0.5, 0.25]


def test_a_group_without_batch_norm_is_named() -> None:
    """With the way out."""
    model = Pooled(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1))
    with pytest.raises(RecipeError, match=r'`body.0` has no batch norm behind it(.|\n)*hint: exclude=\("body.0",\)'):
        batchnorm_scales(model, followed(model))


def test_taylor_is_the_squared_sum_of_weight_times_gradient() -> None:
    """One image of ones, logits (h_0 + 2 h_1, 0) with h = (0.5, 0.25): the gradient is p - 1 for the first logit."""
    first, second = nn.Conv2d(1, 2, (1, 2), bias=False), nn.Conv2d(2, 2, 1, bias=False)
    set_weight(first, 0.4, 0.1, 0.05, 0.2)
    set_weight(second, 1, 2, 0, 0)
    model = Pooled(first, second).train()
    first.weight.requires_grad_(False)
    channels = followed(model)
    model.train()
    scores, examples = taylor_scores(model, channels, torch.ones(1, 1, 4, 4))
    slope = float(torch.sigmoid(torch.tensor(1.0))) - 1
    expected = torch.tensor([(0.5 * slope) ** 2, (0.5 * slope) ** 2], dtype=torch.float64)
    torch.testing.assert_close(of_group(scores, channels, "body.0"), expected)
    assert examples == 1
    assert model.training
    assert not first.weight.requires_grad
    assert second.weight.grad is None
    # batches are averaged, the mean gradient of two equal images is that of one
    again, examples = taylor_scores(model, channels, [torch.ones(2, 1, 4, 4), torch.ones(1, 1, 4, 4)])
    torch.testing.assert_close(again, scores)
    assert examples == 3


def test_random_scores_follow_from_the_seed() -> None:
    """And from nothing else."""
    channels = followed(Pooled(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)))
    draw: Callable[[int], Tensor] = lambda seed: random_scores(channels, seed)  # noqa: E731
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
