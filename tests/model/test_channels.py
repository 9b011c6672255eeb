"""Check that channels are followed: a network without some equals the network that does not read them."""

import functools
from typing import Any

import pytest
import torch
import torch_pruning as pruning
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.nets import NETS, Head, built, conv, images
from torch import Tensor, nn

from foldflat.errors import UnsupportedModelError
from foldflat.model.channels import ChannelMap, call_arguments, inference_mode_of, trace_channels
from foldflat.model.removal import attributes_after, remove_channels, resized, zero_channels
from foldflat.model.trial import first_output, kept_axes, tried


@functools.cache
def known(name: str) -> tuple[nn.Module, ChannelMap]:
    """Return a network and its channels, traced once."""
    model = built(name)
    return model, followed(model, images())


def followed(model: nn.Module, example: Any) -> ChannelMap:
    """Trace a network and try every group."""
    return tried(model, trace_channels(model, example), example)


def drawn(channels: ChannelMap, seed: int) -> Tensor:
    """Keep a random non-empty part of every group that may lose channels."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.ones(channels.n_channels, dtype=torch.bool)
    for group in channels.free_groups:
        count = int(torch.randint(len(group.channels), (1,), generator=generator))
        kept[group.channels[torch.randperm(len(group.channels), generator=generator)[:count]]] = False
    return kept


def outputs(model: nn.Module, example: Any) -> Tensor:
    """Run a network as users do once it is trained."""
    positional, named = call_arguments(example)
    with inference_mode_of(model):
        return first_output(model(*positional, **named))


def check_equal(model: nn.Module, channels: ChannelMap, kept: Tensor, example: Any) -> nn.Module:
    """Compare both ways of doing without channels; return the smaller network."""
    smaller = remove_channels(model, kept_axes(channels, kept), attributes_after(model, channels, kept))
    expected = outputs(zero_channels(model, channels, kept), example)
    torch.testing.assert_close(outputs(smaller, example), expected, rtol=1e-5, atol=1e-5)
    assert type(smaller) is type(model)
    return smaller


@pytest.mark.parametrize("name", NETS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_smaller_equals_unread(name: str, seed: int) -> None:
    """Whatever part of the free channels goes, and each network gets smaller where a channel is free."""
    (model, channels), example = known(name), images(seed=1)
    assert channels.free_groups
    smaller = check_equal(model, channels, drawn(channels, seed), example)
    before, after = (sum(p.numel() for p in part.parameters()) for part in (model, smaller))
    assert after <= before


def transformers_models() -> dict[str, Any]:
    """Return tiny models of four families."""
    transformers = pytest.importorskip("transformers")
    return {
        "resnet": transformers.ResNetForImageClassification(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=3)
        ),
        "regnet": transformers.RegNetForImageClassification(
            transformers.RegNetConfig(
                embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], groups_width=8, num_labels=3
            )
        ),
        "mobilenet_v2": transformers.MobileNetV2ForImageClassification(
            transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=32, num_labels=3)
        ),
        "convnext": transformers.ConvNextForImageClassification(
            transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=3)
        ),
    }


@pytest.mark.parametrize("name", ["resnet", "regnet", "mobilenet_v2", "convnext"])
def test_smaller_equals_unread_for_vision_models_of_transformers(name: str) -> None:
    """A batch may be a dict, as their processors make it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers_models()[name].eval()
    example = {"pixel_values": images(size=32)}
    channels = followed(model, example)
    check_equal(model, channels, drawn(channels, 3), example)


def groups_of(name: str) -> dict[str, Any]:
    """Return a network's groups by name."""
    return {group.name: group for group in known(name)[1].groups}


def test_a_sum_ties_its_sides_and_leaves_the_inside_of_a_block_free() -> None:
    """Sides of a sum are one group, read by whatever reads the sum."""
    groups = groups_of("residual")
    assert groups["body.stem.0"].producers == ("body.stem.0", "body.outer")
    assert groups["body.stem.0"].consumers == ("body.inner.0", "body.wide.0", "body.shortcut")
    assert groups["body.inner.0"].producers == ("body.inner.0",)
    assert all(group.is_free for name, group in groups.items() if name != "classifier")


def test_padded_channels_stay_and_the_others_are_tied_through_the_padding() -> None:
    """The network fixes how many zeros it adds, so those channels stay."""
    groups = groups_of("padded shortcut")
    assert groups["body.stem.0"].producers == ("body.stem.0", "body.outer")
    assert len(groups["body.outer"].channels) == 4
    assert groups["body.outer"].reason == "the network adds 4 channels of zeros here, whatever is removed"


def test_a_number_written_into_forward_is_found_by_trying() -> None:
    """Only the group that the view counts on stays."""
    groups = groups_of("literal view")
    assert groups["features.2.0"].reason.startswith("the network fails without one of them: shape '[-1, 128]'")
    assert groups["features.0.0"].is_free
    assert groups["hidden"].is_free


def test_equal_parts_and_groups_of_a_convolution_say_what_ties_them() -> None:
    """Notes name the layer or the operation."""
    assert groups_of("halves")["body.stem.0"].note == "equal parts keep equal sizes"
    assert len(groups_of("halves")["body.stem.0"].channels) == 8
    assert groups_of("grouped")["body.1.0"].note == "the 4 groups of `body.1.0` keep equal sizes"
    assert len(groups_of("grouped")["body.1.0"].channels) == 4
    assert groups_of("group norm")["body.0"].note == "each norm group of `body.1` stays whole or goes"


class Shuffled(nn.Module):
    """A channel shuffle, whose views take the channels apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 8), conv(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        return self.second(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))


class Branching(nn.Module):
    """A path that depends on the numbers it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if x.sum() > 0 else x


def test_what_cannot_be_followed_stays_and_is_named() -> None:
    """The rest of the network is still free."""
    model, example = Head(Shuffled(), 6).eval(), images()
    channels = followed(model, example)
    groups = {group.name: group for group in channels.groups}
    assert channels.blocked == ["`view` in `body`, which takes their axis apart"]
    assert groups["body.first.0"].reason == "they enter `view` in `body`, which takes their axis apart"
    assert groups["body.second.0"].is_free
    check_equal(model, channels, drawn(channels, 0), example)


def test_a_network_without_fixed_path_is_refused_with_the_operation() -> None:
    """The message ends with the line of the network's own code."""
    with pytest.raises(UnsupportedModelError, match=r"Branching cannot be traced(.|\n)*in forward\)\nhint: "):
        trace_channels(Branching(), images())


def test_tracing_leaves_the_network_as_it_is() -> None:
    """Modes of single modules, weights and their gradients' flags."""
    model = built("residual").train()
    model.body.stem[1].eval()
    model.body.outer.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    channels = followed(model, images())
    smaller = check_equal(model, channels, drawn(channels, 0), images())
    assert model.training
    assert not model.body.stem[1].training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert smaller.training
    assert not smaller.body.outer.weight.requires_grad


def test_a_fresh_network_takes_the_smaller_shapes() -> None:
    """Enough to load weights into: shapes and attributes, on the meta device as well."""
    model, example = built("depthwise"), images()
    channels = followed(model, example)
    kept = drawn(channels, 2)
    attributes = attributes_after(model, channels, kept)
    smaller = remove_channels(model, kept_axes(channels, kept), attributes)
    shapes = {name: list(tensor.shape) for name, tensor in smaller.state_dict().items()}
    with torch.device("meta"):
        empty = resized(NETS["depthwise"](), shapes, attributes)
    assert {name: list(tensor.shape) for name, tensor in empty.state_dict().items()} == shapes
    fresh = resized(NETS["depthwise"](), shapes, attributes).eval()
    fresh.load_state_dict(smaller.state_dict())
    assert torch.equal(outputs(fresh, example), outputs(smaller, example))


def test_groups_equal_those_of_torch_pruning() -> None:
    """The layers that lose a channel together are the same by an independent tool."""
    for name in ("plain", "residual", "dense", "squeeze and excitation", "transposed"):
        (model, channels), example = known(name), images()
        graph = pruning.DependencyGraph().build_dependency(model, example_inputs=example)
        modules = {id(module): key for key, module in model.named_modules()}
        for group in channels.free_groups:
            layer = model.get_submodule(group.name)
            cut = pruning.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else None
            if isinstance(layer, nn.ConvTranspose2d):
                cut = pruning.prune_conv_out_channels
            theirs = graph.get_pruning_group(layer, cut or pruning.prune_linear_out_channels, idxs=[0])
            dense = {
                (modules[id(item.dep.target.module)], "out" in item.dep.handler.__name__)
                for item in theirs
                if isinstance(item.dep.target.module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
            }
            ours = {(key, True) for key in group.producers} | {(key, False) for key in group.consumers}
            assert ours == dense, f"{name}: {group.name}"
