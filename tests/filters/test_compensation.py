"""Check that what removed channels give on average reaches the layers behind, where they can take it."""

from typing import Any

import pytest
import torch
from tests.model.nets import conv, images, norm_like_trained
from torch import Tensor, nn

import foldflat
from foldflat.filters import elimination
from foldflat.filters.readers import shift_target
from foldflat.model.channels import trace_channels


class Constant(nn.Module):
    """A network of which the last two channels are constant, removed by L1 because their filters are zero."""

    def __init__(self, *behind: nn.Module) -> None:
        super().__init__()
        self.stem, self.behind = nn.Conv2d(3, 6, 3), nn.Sequential(*behind)
        self.stem.weight.data[4:] = 0
        self.stem.bias.data[4:] = torch.tensor([1.5, 0.7])

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(torch.relu(self.stem(x))).flatten(2).mean(2)


def last() -> nn.Module:
    """Return a layer that makes logits."""
    return nn.Conv2d(8, 5, 1)


READERS: dict[str, Any] = {
    "bias": lambda: [nn.Conv2d(6, 8, 3), nn.ReLU(), last()],
    "stride, replicated borders": lambda: [
        nn.Conv2d(6, 8, 3, stride=2, padding=1, padding_mode="replicate"),
        nn.ReLU(),
        last(),
    ],
    "batch norm": lambda: [nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), last()],
    "groups": lambda: [nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), last()],
    "transposed": lambda: [nn.ConvTranspose2d(6, 8, 2, stride=2, bias=False), nn.BatchNorm2d(8), last()],
    "linear": lambda: [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.Unflatten(1, (8, 1, 1)), last()],
}


def built(name: str) -> nn.Module:
    """Return a network with one of the readers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return norm_like_trained(Constant(*READERS[name]()))


def pruned(model: nn.Module, **settings: Any) -> foldflat.Result:
    """Take as little as possible from the stem, at most a third."""
    recipe = foldflat.FilterRecipe(
        method="l1", exclude="behind.*", allocation="uniform", **{"keep_ratio": 0.75, "compensate": True, **settings}
    )
    return foldflat.compress(model, recipe, images(4))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("refit", [False, True])
def test_constant_channels_can_go_without_a_trace(name: str, refit: bool) -> None:
    """Outputs stay those before, by shifts alone and by least squares alike."""
    model = built(name)
    if name == "groups":
        # groups of a convolution keep equal sizes: the last channel of each goes
        model.stem.weight.data[[2, 4]] = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        model.stem.weight.data[[2, 5]] = 0
    result = pruned(model, refit=refit, keep_ratio={"linear": 0.8}.get(name, 0.85))
    group = result.plan.groups[0]
    assert len(group.kept) < group.size
    expected, found = model(images(3, seed=5)), result.model(images(3, seed=5))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-3 if refit else 1e-5)
    assert result.report["warnings"] == []


def test_without_compensation_the_constant_is_lost() -> None:
    """So that the test above says something."""
    model = built("bias")
    result = pruned(model, compensate=False)
    assert not torch.allclose(result.model(images(3)), model(images(3)), atol=1e-3)


def test_a_layer_that_can_take_no_shift_is_named() -> None:
    """No bias, and what reads it is no batch norm."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Constant(nn.Conv2d(6, 8, 3, bias=False), nn.ReLU(), last()).eval()
    result = pruned(model)
    assert result.report["warnings"] == [
        "`behind.0` has neither a bias nor a batch norm behind it, so the mean of what it loses is not made good"
    ]
    assert foldflat.FilterPlan.from_json(result.plan.to_json()).notes == result.plan.notes


def test_a_refit_without_shift_fits_about_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares without a constant, which needs moments about zero."""
    monkeypatch.setattr(elimination, "_RIDGE", 1e-9)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Constant(nn.Conv2d(6, 8, 1, bias=False), nn.ReLU(), last()).eval()
    batch = images(8)
    result = pruned(model, refit=True)
    kept = result.plan.groups[0].kept
    hidden = torch.relu(model.stem(batch)).detach().movedim(1, -1).flatten(0, -2).double()
    weight = model.behind[0].weight[:, :, 0, 0].detach().double()
    result = foldflat.apply(model, foldflat.FilterPlan.from_json(result.plan.to_json()), batch)
    expected = torch.linalg.lstsq(hidden[:, kept], hidden @ weight.mT).solution.mT
    torch.testing.assert_close(result.model.behind[0].weight[:, :, 0, 0].double(), expected, rtol=0, atol=1e-4)


def test_a_shift_goes_to_the_bias_or_to_the_norm_behind() -> None:
    """Whichever is there."""
    model = nn.Sequential(conv(3, 6), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1, bias=False)).eval()
    channels = trace_channels(model, images())
    assert shift_target(model, channels, "0.0") == "0.1.running_mean"
    assert shift_target(model, channels, "1") == "1.bias"
    assert shift_target(model, channels, "2") is None
