"""Speed of a ResNet-50-sized network at half its multiplications, and what it takes to prune one.

The network is transformers' ResNetForImageClassification with the configuration of ResNet-50, random weights, and
statistics of BatchNorm from three batches of noise; images are noise, 224 x 224. Each cell (method and `round_to`)
runs in a process of its own, whose peak resident memory is what the operating system says. Both networks are timed in
turns, at batch 1 and 32, in both memory formats. `share` is old / new latency over old / new multiplications;
`by_kind` the seconds in layers of each kind at batch 4, the least of three passes.
Writes benchmarks/results/pruned_speed.json, cell by cell; cells that it holds already are kept.

`--clock processor` counts the seconds that this process computes, which with one thread is what others on the machine
disturb least. A repeat of 0 leaves the timing out.

    python benchmarks/pruned_speed.py [--threads 1] [--images 4] [--repeats 3] [--clock wall] [--cells l2:1 l2:16 ..]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from shared import hardware, read_json, write_json

import foldflat
from foldflat.filters.covariances import measure_moments
from foldflat.model.channels import trace_channels
from foldflat.model.latency import layer_costs, measure_latency

RESULT = Path(__file__).resolve().parent / "results" / "pruned_speed.json"
CELLS = ("l2:1", "l2:8", "l2:16", "reconstruction:1", "reconstruction:16", "pfp:1")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
CLOCK = time.perf_counter
PIXELS, MANY = 224, 200


def noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    model: nn.Module = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    model.train()
    with torch.no_grad():
        for seed in range(3):
            model(noise(4, seed))
    return model.eval()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pruned(model: nn.Module, method: str, round_to: int, images: int) -> tuple[foldflat.Result, dict[str, Any]]:
    """Prune, and say how long each phase took and how far memory rose."""
    recipe = foldflat.FilterRecipe(keep_ratio=0.5, measure="macs", method=method, round_to=round_to)
    marks: list[tuple[str, float]] = []
    before, started = peak_bytes(), CLOCK()
    result = foldflat.compress(model, recipe, noise(images, 9), watch=lambda line: marks.append((line, CLOCK())))
    ended = CLOCK()
    stops = [when for _, when in marks[1:]] + [ended]
    return result, {
        "images": images,
        "seconds": ended - started,
        "phases": {line: stop - start for (line, start), stop in zip(marks, stops, strict=True)},
        "peak_bytes_before": before,
        "peak_bytes": peak_bytes(),
    }


def seconds_an_image(model: nn.Module, method: str, cost: dict[str, Any]) -> float:
    """Return what a calibration image adds."""
    images = noise(cost["images"], 9)
    started = CLOCK()
    if method == "pfp":
        return float(cost["phases"]["Scoring channels by pfp"] / len(images))
    if method == "reconstruction":
        channels = trace_channels(model, images[:2])
        started = CLOCK()
        measure_moments(model, channels, channels.free_channels, images, seed=0)
        return (CLOCK() - started) / len(images)
    return 0.0


def timed(models: dict[str, nn.Module], images: Tensor, repeats: int, ratio: float) -> dict[str, Any]:
    found = measure_latency(models, images, repeats, warmup=int(len(images) == 1), clock=CLOCK)
    speedup = found["original"].median / found["pruned"].median
    return {
        **{name: asdict(latency) for name, latency in found.items()},
        "speedup": speedup,
        "speedup_of_least": found["original"].least / found["pruned"].least,
        "share": speedup / ratio,
    }


def by_kind(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Return the seconds that a pass spends in layers of each kind."""
    found: dict[str, float] = {}
    hooks = []

    def count(kind: str, sign: int) -> None:
        found[kind] = found.get(kind, 0.0) + sign * CLOCK()

    for layer in model.modules():
        if not list(layer.children()):
            taps = layer.kernel_size[0] if isinstance(layer, nn.Conv2d) else ""
            kind = f"{type(layer).__name__}{taps}"
            hooks.append(layer.register_forward_pre_hook(lambda *_, kind=kind: count(kind, -1)))
            hooks.append(layer.register_forward_hook(lambda *_, kind=kind: count(kind, 1)))
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def speeds(models: dict[str, nn.Module], form: torch.memory_format, repeats: int, ratio: float) -> dict[str, Any]:
    """Return times of both networks in one memory format, at each batch, and by kind of layer."""
    moved = {name: model.to(memory_format=form) for name, model in models.items()}
    found: dict[str, Any] = {"batches": {}, "by_kind": {}}
    for batch, count in ((1, 5 * repeats), (32, repeats)):
        found["batches"][str(batch)] = timed(moved, noise(batch, 5).contiguous(memory_format=form), count, ratio)
    images = noise(4, 5).contiguous(memory_format=form)
    for name, model in moved.items():
        passes = [by_kind(model, images) for _ in range(3)]
        found["by_kind"][name] = {kind: min(seconds[kind] for seconds in passes) for kind in passes[0]}
    return found


def cell(name: str, images: int, repeats: int) -> dict[str, Any]:
    method, round_to = name.split(":")
    model = network()
    result, cost = pruned(model, method, int(round_to), images)
    each = seconds_an_image(model, method, cost)
    ratio = result.report["macs_before"] / result.report["macs_after"]
    models = {"original": model, "pruned": result.model}
    widths = Counter(getattr(m, "out_channels", 0) for m in result.model.modules() if isinstance(m, nn.Conv2d))
    return {
        "method": method,
        "round_to": int(round_to),
        "macs": [result.report["macs_before"], result.report["macs_after"]],
        "macs_ratio": ratio,
        "parameters": [result.report["parameters_before"], result.report["parameters_after"]],
        "pruning": cost,
        "seconds_an_image": each,
        f"seconds_of_{MANY}_images": cost["seconds"] + (MANY - images) * each,
        **({form: speeds(models, kind, repeats, ratio) for form, kind in FORMATS.items()} if repeats else {}),
        "widths": {str(width): count for width, count in sorted(widths.items())},
        "layer_macs": {layer.name: layer.macs for layer in layer_costs(result.model, noise(1, 0))},
        "load_average": os.getloadavg(),
    }


def run_cell(name: str, settings: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--cell", name, "--images", str(settings.images)]
    command += ["--repeats", str(settings.repeats), "--threads", str(settings.threads), "--clock", settings.clock]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--cells", nargs="*", default=CELLS)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    global CLOCK  # noqa: PLW0603 (one clock for the whole of a cell's process)
    CLOCK = CLOCKS[settings.clock]
    if settings.cell:
        print(json.dumps(cell(settings.cell, settings.images, settings.repeats)))
        return
    found = read_json(RESULT) if RESULT.is_file() else {"cells": {}}
    for name in settings.cells:
        found["cells"].pop(name, None)
        found["cells"][name] = run_cell(name, settings) | {"clock": settings.clock}
        write_json(RESULT, {**found, "pixels": PIXELS, "hardware": hardware()})
        one = found["cells"][name]
        shares = {
            f"{form} {batch}": round(times["share"], 3)
            for form in FORMATS.keys() & one.keys()
            for batch, times in one[form]["batches"].items()
        }
        print(name, one["macs_ratio"], shares, one["pruning"]["seconds"], one["pruning"]["peak_bytes"], flush=True)


if __name__ == "__main__":
    main()
