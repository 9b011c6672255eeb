"""Small convolutional networks, one for each way in which channels depend on each other."""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

WIDTH = 8


def norm_like_trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms statistics and parameters that differ from channel to channel, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.3 * torch.randn(module.num_features, generator=generator)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=generator)
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
            module.weight.data = 0.5 + torch.rand(module.weight.shape, generator=generator)
            module.bias.data = 0.3 * torch.randn(module.bias.shape, generator=generator)
    return model.eval()


def conv(inputs: int, outputs: int, size: int = 3, **kwargs: int) -> nn.Sequential:
    """Return convolution, norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **kwargs), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Head(nn.Module):
    """Pool and classify."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.classifier = body, nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x).mean((2, 3)))


class Plain(nn.Module):
    """Convolutions, pooling, and a flatten of 4 x 4 positions into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 6), nn.MaxPool2d(2), conv(6, WIDTH), nn.AdaptiveAvgPool2d(4))
        self.hidden, self.classifier = nn.Linear(16 * WIDTH, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self.hidden(torch.flatten(self.features(x), 1))))


class LiteralView(Plain):
    """The same with a number of channels written into forward."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self.hidden(self.features(x).view(-1, 16 * WIDTH))))


class Residual(nn.Module):
    """Two blocks with an identity and a projection shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, WIDTH)
        self.inner, self.outer = conv(WIDTH, 6), nn.Conv2d(6, WIDTH, 3, padding=1)
        self.wide, self.shortcut = conv(WIDTH, 10, stride=2), nn.Conv2d(WIDTH, 10, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.outer(self.inner(x)))
        return self.wide(x) + self.shortcut(x)


class PaddedShortcut(nn.Module):
    """A shortcut that strides and adds two channels of zeros before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = conv(3, 6), conv(6, WIDTH, stride=2)
        self.outer = nn.Conv2d(WIDTH, 10, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return F.relu(self.outer(self.inner(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))


class Dense(nn.Module):
    """Each layer reads all before it, through a norm of all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = conv(3, 6), conv(6, 4)
        self.norm, self.second = nn.BatchNorm2d(10), conv(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.first(x)], 1)
        return torch.cat([x, self.second(F.relu(self.norm(x)))], 1)


class Excitation(nn.Module):
    """Channels scaled by what a squeeze says of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = conv(3, WIDTH), nn.Linear(WIDTH, 3), nn.Linear(3, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * scale[:, :, None, None]


class Halves(nn.Module):
    """A chunk into two halves of which one goes on, then both are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = conv(3, 2 * WIDTH), conv(WIDTH, 6)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        return torch.cat([left, self.inner(right)], 1)


class ChannelsLast(nn.Module):
    """A block of the ConvNeXt kind: depthwise, norm over channels, two linear layers, a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, WIDTH, 2, stride=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.norm, self.wide, self.narrow = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)
        self.scale = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.mix(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


class Scaled(nn.Module):
    """A learned scale for each channel, called twice with shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again = conv(3, WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(WIDTH, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale * self.stem(x)
        return self.again(F.relu(self.again(x)))


def transposed() -> nn.Module:
    """Go down and up again."""
    return nn.Sequential(
        conv(3, WIDTH, stride=2), nn.ConvTranspose2d(WIDTH, 6, 2, stride=2), nn.PReLU(6), nn.Conv2d(6, WIDTH, 1)
    )


def grouped() -> nn.Module:
    """Read twelve channels in four groups."""
    return nn.Sequential(conv(3, 12), conv(12, 16, groups=4), nn.Conv2d(16, WIDTH, 1))


def depthwise() -> nn.Module:
    """Convolve every channel alone, then twice over."""
    return nn.Sequential(conv(3, 6), conv(6, 6, groups=6), conv(6, 12, groups=6), nn.Conv2d(12, WIDTH, 1))


def group_norm() -> nn.Module:
    """Take statistics over groups of three channels."""
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv2d(12, WIDTH, 3), nn.ReLU())


NETS = {
    "plain": Plain,
    "literal view": LiteralView,
    "residual": lambda: Head(Residual(), 10),
    "padded shortcut": lambda: Head(PaddedShortcut(), 10),
    "dense": lambda: Head(Dense(), 14),
    "squeeze and excitation": lambda: Head(Excitation(), WIDTH),
    "halves": lambda: Head(Halves(), WIDTH + 6),
    "channels last": lambda: Head(ChannelsLast(), WIDTH),
    "scaled, weights shared": lambda: Head(Scaled(), WIDTH),
    "transposed": lambda: Head(transposed(), WIDTH),
    "grouped": lambda: Head(grouped(), WIDTH),
    "depthwise": lambda: Head(depthwise(), WIDTH),
    "group norm": lambda: Head(group_norm(), WIDTH),
}


def built(name: str, seed: int = 0) -> nn.Module:
    """Return a network with weights drawn from `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return norm_like_trained(NETS[name](), seed)


def images(count: int = 2, size: int = 16, seed: int = 0) -> Tensor:
    """Return normal inputs (count, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
