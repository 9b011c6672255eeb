"""Time exact sensitivities of every layer of a network as a multiple of its forward pass, and their memory.

    python benchmarks/sensitivities.py [--images 200] [--large-images 4] [--only resnet20]

ResNet-20 is the trained one of FOLDFLAT_DATA on its CIFAR-10 images; the ResNet-50-sized net has random weights and
gets images of noise, 224 x 224. Both times come from one run, the least of several, taken in turns.
"""

import argparse
import io
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from shared import DATA, ROOT, hardware, write_json

from foldflat.filters.saliency import SensitivityMeter, sensitivity

Inputs = dict[str, tuple[nn.Module, Tensor]]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions; the shortcut drops positions and adds channels of zeros."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.more = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes out."""
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet20(nn.Module):
    """He et al.'s CIFAR net, with the names of models/resnet20-cifar10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(BasicBlock(16, 32, 2), *(BasicBlock(32, 32, 1) for _ in range(2)))
        self.layer3 = nn.Sequential(BasicBlock(32, 64, 2), *(BasicBlock(64, 64, 1) for _ in range(2)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes out."""
        x = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 with a projection where the size changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        shapes = ((before, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, s, k // 2, bias=False) for a, b, k, s in shapes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in shapes)
        changed = stride > 1 or before != 4 * width
        self.shortcut = nn.Conv2d(before, 4 * width, 1, stride, bias=False) if changed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes out."""
        y = x
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            y = functional.relu(y) if number < 2 else y
        return functional.relu(y + self.shortcut(x))


def resnet50() -> nn.Module:
    blocks, before = [], 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for number in range(count):
            blocks.append(Bottleneck(before, 64 << stage, 1 + (stage > 0 and number == 0)))
            before = 4 * 64 << stage
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def cifar_images(count: int) -> Tensor:
    """Return normalised training images (count, 3, 32, 32)."""
    import numpy as np
    from PIL import Image
    from pyarrow import parquet

    rows = next(parquet.ParquetFile(DATA / "data/cifar10/train.parquet").iter_batches(count, columns=["img"]))
    images = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in rows["img"].to_pylist()]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    mean, deviation = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    return ((pixels - mean[:, None, None]) / deviation[:, None, None]).contiguous()


def layer_inputs(model: nn.Module, images: Tensor) -> Inputs:
    """Return the layer and its inputs by name, for every convolution and linear layer."""
    found: Inputs = {}

    def keeper(name: str) -> Callable[..., None]:
        return lambda module, args: found.__setitem__(name, (module, args[0]))

    kinds = nn.Conv2d | nn.Linear
    hooks = [m.register_forward_pre_hook(keeper(n)) for n, m in model.named_modules() if isinstance(m, kinds)]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(model: nn.Module, images: Tensor, repeats: int) -> dict[str, Any]:
    """Return times of forward passes and of sensitivities, in turns, the least of each."""
    inputs = layer_inputs(model, images)
    before = peak_megabytes()
    forward: list[float] = []
    layers: dict[str, list[float]] = {name: [] for name in inputs}
    with torch.no_grad():
        for _ in range(repeats):
            forward += [seconds(lambda: model(images)) for _ in range(2)]
            for name, (layer, own) in inputs.items():
                layers[name].append(seconds(lambda layer=layer, own=own: sensitivity(layer, own)))  # type: ignore[misc]
    least = {name: min(times) for name, times in layers.items()}
    total = sum(least.values())
    return {
        "images": len(images),
        "forward_seconds": min(forward),
        "sensitivities_seconds": total,
        "multiple": total / min(forward),
        "peak_megabytes_inputs_and_model": before,
        "peak_megabytes": peak_megabytes(),
        "layers": {name: value / min(forward) for name, value in least.items()},
        "totals": {name: float(sensitivity(*inputs[name]).sum()) for name in inputs},
    }


def measure_patches(model: nn.Module, images: Tensor, counts: tuple[int, ...]) -> dict[str, Any]:
    """Return what a draw of positions saves, and how far its sensitivities fall short of the exact ones."""
    inputs = {n: pair for n, pair in layer_inputs(model, images).items() if isinstance(pair[0], nn.Conv2d)}
    exact = {name: sensitivity(*pair) for name, pair in inputs.items()}
    found = {}
    for count in counts:
        elapsed, short, worst = 0.0, [], []
        for name, (layer, own) in inputs.items():
            meter = SensitivityMeter(layer, patches=count)
            elapsed += seconds(lambda meter=meter, own=own: meter.update(own))  # type: ignore[misc]
            short.append(1 - float(meter.value.sum() / exact[name].sum()))
            worst.append(float((exact[name] - meter.value).max()))
        found[str(count)] = {
            "seconds": elapsed,
            "total_too_small_by_mean": sum(short) / len(short),
            "sensitivity_too_small_by_at_most": max(worst),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--large-images", type=int, default=4)
    parser.add_argument("--only", choices=("resnet20", "resnet50"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, Any] = {"hardware": hardware()}
    if arguments.only != "resnet50":
        from safetensors.torch import load_file

        model = ResNet20().eval()
        model.load_state_dict(load_file(DATA / "models/resnet20-cifar10/model.safetensors"))
        images = cifar_images(arguments.images)
        found["resnet20"] = measure(model, images, 3)
        found["resnet20"]["patches"] = measure_patches(model, images, (4, 16, 64))
        print({name: value for name, value in found["resnet20"].items() if name not in ("layers", "totals")})
    if arguments.only != "resnet20":
        found["resnet50"] = measure(resnet50().eval(), torch.randn(arguments.large_images, 3, 224, 224), 1)
        print({name: value for name, value in found["resnet50"].items() if name not in ("layers", "totals")})
    if arguments.only is None:
        write_json(ROOT / "benchmarks/results/sensitivities.json", found)


if __name__ == "__main__":
    main()
