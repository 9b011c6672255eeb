"""Check what is made of calibration data: good ones in any form, bad ones refused, the network left as it is."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.filters.wide import BATCH, built, kept_of, planned
from torch import Tensor

from foldflat.errors import (
    DataError,
)
from foldflat.filters.recipe import METHODS

BAD = [
    (None, "no calibration data are given"),
    ([], "hold no batch"),
    (7, "are a int; hint: a tensor, or an iterable of batches"),
    (torch.empty(0, 3, 8, 8), "batch 0 of the calibration data is empty"),
    ((), "batch 0 of the calibration data is empty"),
    (torch.full((2, 3, 8, 8), torch.nan), "batch 0 of the calibration data holds NaN"),
    ([BATCH, torch.full((2, 3, 8, 8), torch.inf)], "batch 1 of the calibration data holds NaN or infinite"),
    (torch.ones(2, 4, 8, 8), r"Head does not accept calibration data of shape \(2, 4, 8, 8\): (.|\n)*hint: "),
    ([BATCH, torch.ones(2, 5, 8, 8)], r"Head does not accept calibration data of shape \(2, 5, 8, 8\)"),
    ([(BATCH, torch.zeros(6))], r"does not accept calibration data of shape \(2, 3, 8, 8\), \(2,\): .*\n.*labels"),
]


CASES = [("pfp", *case) for case in BAD] + [(method, *BAD[8]) for method in ("taylor", "reconstruction")]


@pytest.mark.parametrize(("method", "calibration", "message"), CASES, ids=range(len(CASES)))
def test_unusable_calibration_data_are_refused(method: str, calibration: Any, message: str) -> None:
    """By every method that needs them."""
    with pytest.raises(DataError, match=message):
        planned(calibration, method=method)


SETTINGS: list[dict[str, Any]] = [{"method": method} for method in METHODS] + [
    {"method": "taylor", "refit": True},
    {"method": "l1", "compensate": True},
    {"method": "pfp", "compensate": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids="-".join)
def test_data_that_can_be_read_once_are_enough(settings: dict[str, Any]) -> None:
    """A generator gives what a list of the same batches gives."""

    def stream() -> Iterator[Tensor]:
        yield from BATCH.split(2)

    once = planned(stream(), keep_ratio=0.5, **settings)
    often = planned(list(BATCH.split(2)), keep_ratio=0.5, **settings)
    assert once == often
    data_free = not {"refit", "compensate"} & settings.keys() and settings["method"] in (
        "l1",
        "l2",
        "batchnorm",
        "random",
    )
    assert once.examples == (0 if data_free else 6)


def test_modes_and_gradients_of_the_network_stay_as_they_are() -> None:
    """Also where measuring needs derivatives, or fails."""
    for method in ("pfp", "taylor", "reconstruction"):
        model = built().train()
        model.body.stem[1].eval()
        model.body.stem[0].weight.requires_grad_(False)
        planned(model=model, method=method)
        with pytest.raises(DataError):
            planned([BATCH, torch.ones(2, 5, 8, 8)], model=model, method=method)
        assert model.training
        assert not model.body.stem[1].training
        assert [p.requires_grad for p in model.parameters()].count(False) == 1
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_large_batches_are_differentiated_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which changes nothing but what labels are drawn, and those not here: one class is certain."""
    model = built()
    model.classifier.bias.data[0] = 40.0
    whole = planned(model=model, method="reconstruction", keep_ratio=0.5)
    monkeypatch.setattr("foldflat.filters.calibration._PART_ELEMENTS", 2 * BATCH[0].numel())
    sizes = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    parts = planned(model=model, method="reconstruction", keep_ratio=0.5)
    handle.remove()
    assert max(sizes) == 2
    assert sum(size == 2 for size in sizes) >= 3
    assert kept_of(parts) == kept_of(whole)


def test_a_network_that_gives_no_numbers_is_refused() -> None:
    """Where the data are finite and what comes out is not."""
    for method in ("taylor", "reconstruction"):
        model = built()
        model.classifier.bias.data[0] = torch.nan
        with pytest.raises(DataError, match=r"gives NaN or infinite numbers for calibration data that are finite"):
            planned(model=model, method=method)
