"""Check how networks are timed and what their layers are said to take."""

import pytest
import torch
from tests.model.nets import NETS, built, images
from torch import Tensor, nn

from foldflat.errors import DataError
from foldflat.filters.sizes import NetworkSize
from foldflat.model.channels import trace_channels
from foldflat.model.latency import Latency, LayerCost, layer_costs, measure_latency


class Diary(nn.Module):
    """Writes down its name, and whether it trains, whenever it is called."""

    def __init__(self, name: str, entries: list[tuple[str, bool, bool]]) -> None:
        super().__init__()
        self.name, self.entries, self.inner = name, entries, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        self.entries.append((self.name, self.training or self.inner.training, torch.is_grad_enabled()))
        return self.inner(x)


def test_networks_are_timed_in_turns_and_get_their_modes_back() -> None:
    """A b a b .., warm-up included, in eval mode without gradients; afterwards each module's own mode."""
    entries: list[tuple[str, bool, bool]] = []
    first, second = Diary("a", entries).train(), Diary("b", entries).eval()
    second.inner.train()
    found = measure_latency({"a": first, "b": second}, torch.ones(2, 3), repeats=4, warmup=1)
    assert entries == [("a", False, False), ("b", False, False)] * 5
    assert [module.training for module in (first, first.inner, second, second.inner)] == [True, True, False, True]
    assert list(found) == ["a", "b"]
    for latency in found.values():
        low, high = latency.quartiles
        assert 0 < latency.least <= low <= latency.median <= high
        assert latency.passes == 4


def test_times_are_the_clock_s_by_hand() -> None:
    """Passes of 9 (warm-up), 1, 2, 4, 3 seconds for a, ten times as long for b: median, least, quartiles."""
    now, readings = 0.0, []
    for seconds in (9, 1, 2, 4, 3):
        for taken in (seconds, 10 * seconds):
            readings += [now, now + taken]
            now += taken
    networks = {"a": nn.Identity(), "b": nn.Identity()}
    found = measure_latency(networks, torch.ones(1), repeats=4, warmup=1, clock=iter(readings).__next__)
    assert found == {"a": Latency(2.5, 1, (1.75, 3.25), 4), "b": Latency(25, 10, (17.5, 32.5), 4)}


def test_a_slower_network_takes_longer() -> None:
    """Many times the multiplications show, by name and not by order."""
    networks = {"small": nn.Linear(400, 4), "large": nn.Sequential(*(nn.Linear(400, 400) for _ in range(8)))}
    found = measure_latency(networks, torch.ones(64, 400), repeats=5)
    assert found["large"].median > 2 * found["small"].median


def test_nothing_to_time_is_an_error() -> None:
    """No network, or not one pass."""
    with pytest.raises(DataError, match="0 networks are timed 20 times"):
        measure_latency({}, torch.ones(1))
    with pytest.raises(DataError, match="timed 0 times"):
        measure_latency({"a": nn.Identity()}, torch.ones(1), repeats=0)


def test_costs_of_layers_by_hand() -> None:
    """For one example of 6 x 6 pixels, whatever the batch: multiplications, and bytes of weight and bias.

    conv: 4 filters of 3 x 9 taps at 3 x 3 positions; depthwise: 4 of 9 taps; up: each of 9 positions read gives
    4 x 2 x 4 products; linear: on 36 positions of 2 channels; the last layer is not called.
    """

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
            self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
            self.up = nn.ConvTranspose2d(4, 2, 2, stride=2, bias=False)
            self.linear, self.unused = nn.Linear(2, 5), nn.Linear(2, 3).half()

        def forward(self, x: Tensor) -> Tensor:
            x = self.depthwise(self.depthwise(self.conv(x)))
            return self.linear(self.up(x).permute(0, 2, 3, 1))

    expected = [
        LayerCost("conv", 4 * 27 * 9, 4 * 4 * 27),
        LayerCost("depthwise", 2 * 4 * 9 * 9, 4 * (4 * 9 + 4)),
        LayerCost("up", 9 * 4 * 2 * 4, 4 * 32),
        LayerCost("linear", 36 * 10, 4 * (10 + 5)),
        LayerCost("unused", 0, 2 * (6 + 3)),
    ]
    net = Net().train()
    assert layer_costs(net, torch.ones(1, 3, 6, 6)) == expected
    assert layer_costs(net, {"x": torch.ones(5, 3, 6, 6)}) == expected
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("name", list(NETS))
def test_layers_sum_up_to_the_network(name: str) -> None:
    """What hooks count is what the channel map counts, by another way."""
    net = built(name)
    whole = NetworkSize(net, trace_channels(net, images()))
    every = torch.ones(trace_channels(net, images()).n_channels, dtype=torch.bool)
    assert sum(cost.macs for cost in layer_costs(net, images())) == whole.after(every).macs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_each_network_is_timed_on_its_own_device() -> None:
    """The example follows the network."""
    networks = {"cpu": nn.Linear(3, 3), "cuda": nn.Linear(3, 3).cuda()}
    assert measure_latency(networks, torch.ones(2, 3), repeats=2)["cuda"].median > 0
