"""Running statistics estimated anew from unlabelled batches."""

import copy

import pytest
import torch
from torch import Tensor, nn

from foldflat.errors import DataError
from foldflat.evaluate import recalibrate_batchnorm


def network() -> nn.Sequential:
    """Return two normalised convolutions with dropout between them and statistics that fit nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
        )
    model[1].running_mean.fill_(7.0)
    model[1].num_batches_tracked.fill_(100)
    model[5].momentum = 0.3
    return model


def batches(count: int = 3) -> list[Tensor]:
    """Draw batches of 16 images of 6 x 6 pixels."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 3, 6, 6, generator=generator) * (index + 1) for index in range(count)]


def test_statistics_are_the_average_over_the_batches() -> None:
    """By hand for the first layer; the second sees the first normalised by each batch and no dropout."""
    model = network()
    assert recalibrate_batchnorm(model, batches()) == 2
    with torch.no_grad():
        first = [model[0](batch) for batch in batches()]
        mean = torch.stack([maps.mean((0, 2, 3)) for maps in first]).mean(0)
        variance = torch.stack([maps.transpose(0, 1).flatten(1).var(1) for maps in first]).mean(0)
        torch.testing.assert_close(model[1].running_mean, mean)
        torch.testing.assert_close(model[1].running_var, variance)
        normalised = [(m - m.mean((0, 2, 3), True)) / (m.var((0, 2, 3), False, True) + 1e-5).sqrt() for m in first]
        second = [model[4](maps.relu()).mean((0, 2, 3)) for maps in normalised]
        torch.testing.assert_close(model[5].running_mean, torch.stack(second).mean(0), atol=1e-5, rtol=1e-4)


def test_nothing_but_the_statistics_changes() -> None:
    """Modes, momenta, weights and gradients stay, in a model of mixed modes."""
    model = network()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(dict(model.named_parameters()))
    state = torch.get_rng_state()
    recalibrate_batchnorm(model, iter(batches()))
    assert [module.training for module in model.modules()] == modes
    assert (model[1].momentum, model[5].momentum) == (0.1, 0.3)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert torch.equal(state, torch.get_rng_state())


def test_dicts_and_models_without_statistics_are_taken() -> None:
    """A dict is passed by name; without statistics to keep there is nothing to do, with or without batches."""
    model = network()
    recalibrate_batchnorm(model, [{"input": batch} for batch in batches()])
    other = network()
    recalibrate_batchnorm(other, batches())
    assert torch.equal(model[5].running_mean, other[5].running_mean)
    assert recalibrate_batchnorm(nn.Sequential(nn.Linear(2, 2)), []) == 0
    assert (
        recalibrate_batchnorm(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)), []) == 0
    )


def test_after_an_error_the_old_statistics_are_back() -> None:
    """No batches, NaN in a batch, a batch of the wrong shape."""
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match="no batches to estimate statistics from\nhint: give at least one"):
        recalibrate_batchnorm(model, [])
    with pytest.raises(DataError, match="statistics of '1' became NaN or infinite\nhint: look for NaN"):
        recalibrate_batchnorm(model, [*batches(), torch.full((4, 3, 6, 6), torch.nan)])
    with pytest.raises(RuntimeError, match="channels"):
        recalibrate_batchnorm(model, [*batches(), torch.zeros(4, 1, 6, 6)])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model[1].training
    assert model[1].momentum == 0.1
