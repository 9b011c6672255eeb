"""Check that channels removed one by one, their effects subtracted by the panel, leave what least squares say."""

import pytest
import torch
from torch import Tensor

from foldflat.filters import elimination
from foldflat.filters.covariances import Moments
from foldflat.filters.elimination import eliminate

CHANNELS = 9


def moments(size: int, groups: int, others: int, seed: int) -> Moments:
    """Return those of a layer that reads `size` columns of each channel, and as many of `others` more, in any order."""
    generator = torch.Generator().manual_seed(seed)
    columns = torch.arange(CHANNELS + others).repeat_interleave(size)
    rows = torch.randn(groups, 60, len(columns), generator=generator) @ torch.randn(
        groups, len(columns), len(columns), generator=generator
    )
    shuffled = torch.stack([columns[torch.randperm(len(columns), generator=generator)] for _ in range(groups)])
    return Moments(
        torch.randn(groups, 5, len(columns), generator=generator),
        shuffled,
        rows.mT @ rows / 60,
        torch.zeros(groups, len(columns)),
        torch.rand(groups, 5, generator=generator),
    )


def error(readers: list[Moments], kept: Tensor) -> float:
    """Return what the best weights on what is left lose, each problem solved anew."""
    total = 0.0
    for reader in readers:
        for group, columns in enumerate(reader.columns):
            stays = kept[columns]
            covariance = elimination._regular(reader.covariance[group])
            weights = reader.weights[group].double()
            crossed = weights @ covariance[:, stays]
            explained = (crossed @ torch.linalg.inv(covariance[stays][:, stays]) * crossed).sum(1)
            lost = ((weights @ covariance) * weights).sum(1) - explained
            total += float(lost @ reader.importance[group].double())
    return total


@pytest.mark.parametrize("terms", [1, 8, 128])
def test_order_and_errors_are_those_of_least_squares(monkeypatch: pytest.MonkeyPatch, terms: int) -> None:
    """For readers with other channels between, with groups, with windows: whenever matrices are brought up to date."""
    monkeypatch.setattr(elimination, "_TERMS", terms)
    readers = [moments(4, 1, 2, 0), moments(1, 2, 0, 1), moments(1, 1, 3, 2)]
    found = eliminate(torch.arange(CHANNELS), readers)
    kept = torch.ones(CHANNELS + 3, dtype=torch.bool)
    for count, gone in zip(range(CHANNELS - 1, 0, -1), found.order.tolist(), strict=False):
        left = kept[:CHANNELS].nonzero()[:, 0].tolist()
        without = {i: error(readers, kept.index_fill(0, torch.tensor(i), 0)) for i in left}
        assert gone == min(without, key=lambda i: without[i])
        kept[gone] = False
        assert found.errors[count] == pytest.approx(without[gone], rel=1e-5)
    assert sorted(found.order.tolist()) == list(range(CHANNELS))
