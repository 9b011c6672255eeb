"""The networks that the experiments prune: images (n, 3, 32, 32) to logits (n, classes).

`ResNet20` is the architecture of `models/resnet20-cifar10`; the other two are trained by `train.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from foldflat.model.latency import layer_costs

__all__ = ["NETS", "PlainVGG", "ProjectionResNet", "ResNet20", "macs"]


class PaddedBlock(nn.Module):
    """Add two convolutions to their input; where the width grows, to its every second pixel, padded with zeros."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.padding = (width - width_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps (n, width, ..) of feature maps (n, width_in, ..)."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.padding:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(out + x)


class ResNet20(nn.Module):
    """He et al. 2016, for CIFAR: three stages of three blocks, 16, 32, 64 filters, shortcuts without parameters."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(PaddedBlock(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(PaddedBlock(16, 32, 2), PaddedBlock(32, 32, 1), PaddedBlock(32, 32, 1))
        self.layer3 = nn.Sequential(PaddedBlock(32, 64, 2), PaddedBlock(64, 64, 1), PaddedBlock(64, 64, 1))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, 3, 32, 32)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class PlainVGG(nn.Module):
    """Chain convolution, normalisation, ReLU, and halve the image between stages; no shortcuts."""

    def __init__(
        self, stages: tuple[tuple[int, ...], ...] = ((32,), (48, 64), (96, 128), (256,)), classes: int = 10
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width_in = 3
        for stage in stages:
            for width in stage:
                layers += [nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                width_in = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, 3, 32, 32)."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


class ProjectionBlock(nn.Module):
    """Add two convolutions to their input, or to its projection where width or stride differ."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps (n, width, ..) of feature maps (n, width_in, ..)."""
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ProjectionResNet(nn.Module):
    """Halve the image and change the width in every stage, with 1 x 1 projections as shortcuts."""

    def __init__(
        self, widths: tuple[int, ...] = (24, 48, 96, 192), blocks: tuple[int, ...] = (1, 1, 1), classes: int = 10
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages = []
        for width_in, width, count in zip(widths, widths[1:], blocks, strict=False):
            rest = (ProjectionBlock(width, width, 1) for _ in range(count - 1))
            stages.append(nn.Sequential(ProjectionBlock(width_in, width, 2), *rest))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, 3, 32, 32)."""
        x = self.stages(functional.relu(self.bn1(self.conv1(x))))
        return self.linear(self.pool(x).flatten(1))


NETS: dict[str, type[nn.Module]] = {"resnet20": ResNet20, "vgg": PlainVGG, "projection": ProjectionResNet}


def macs(model: nn.Module, side: int = 32) -> int:
    """Count the multiplications of convolutions and linear layers for one image of this side."""
    return sum(layer.macs for layer in layer_costs(model, torch.zeros(1, 3, side, side)))
