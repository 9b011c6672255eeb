"""A network of fine steps, and a plan for it in one line."""

from typing import Any

import torch
from tests.model.nets import Head, conv, images, norm_like_trained
from torch import Tensor, nn

import foldflat


class Wide(nn.Module):
    """A residual net with so many channels that one of them is less than a hundredth of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = conv(3, 128, size=1), conv(128, 96, size=1)
        self.outer, self.wide = nn.Sequential(*conv(96, 128, size=1)[:2]), conv(128, 112, size=1, stride=2)
        self.shortcut = nn.Conv2d(128, 112, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.outer(self.inner(x)))
        return self.wide(x) + self.shortcut(x)


def built(seed: int = 0, body: Any = Wide, width: int = 112) -> nn.Module:
    """Return a network with weights drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return norm_like_trained(Head(body(), width), seed)


MODEL = built()
BATCH = images(6, size=8)


def planned(calibration: Any = BATCH, model: nn.Module = MODEL, **settings: Any) -> foldflat.FilterPlan:
    """Plan with a recipe of these settings."""
    return foldflat.plan(model, foldflat.FilterRecipe(**{"method": "pfp", **settings}), calibration)


def kept_of(plan: foldflat.FilterPlan) -> list[set[int]]:
    """Return what each group keeps."""
    return [set(group.kept) for group in plan.groups]
