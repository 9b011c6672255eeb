"""Train one of the networks that the experiments prune, on CIFAR-10, and keep its weights with a record.

Writes experiments/filters/weights/NET.safetensors (float16) and NET.json; an interrupted run goes on where it was.

    python experiments/filters/train.py {vgg,projection} [--epochs 14] [--seed 0] [--threads 1]
"""

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from filters.nets import NETS, macs
from shared import DATA, ROOT, hardware, write_json

from foldflat.evaluate import RetrainingSettings, load_images, retrain, score_images

WEIGHTS = Path(__file__).resolve().parent / "weights"
RUNS = ROOT / "build" / "filters-training"


def rounded(model: nn.Module, file: Path) -> nn.Module:
    """Save the weights as float16 and return a new network that holds what the file holds."""
    file.parent.mkdir(parents=True, exist_ok=True)
    halves = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in halves.items()}, file)
    fresh = type(model)()
    fresh.load_state_dict(load_file(file))
    return fresh


def train(net: str, settings: RetrainingSettings, log: Path) -> tuple[nn.Module, Any]:
    """Train a new network of this kind; progress goes to `log` as JSON lines."""
    train_images = load_images(DATA / "data/cifar10", "train")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        model = NETS[net]()
    started = time.perf_counter()

    def note(values: dict[str, Any]) -> None:
        with log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**values, "seconds": round(time.perf_counter() - started, 1)}) + "\n")

    folder = RUNS / f"{net}-{settings.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    run = retrain(model, train_images, settings, checkpoints=folder, progress=False, on_progress=note)
    return model, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=[name for name in NETS if name != "resnet20"])
    parser.add_argument("--epochs", type=float, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    settings = RetrainingSettings(
        seed=asked.seed, epochs=asked.epochs, learning_rate=0.1, warmup_ratio=0.2, bf16=True, channels_last=True
    )
    RUNS.mkdir(parents=True, exist_ok=True)
    log = RUNS / f"{asked.net}-{asked.seed}.jsonl"
    model, run = train(asked.net, settings, log)
    test = load_images(DATA / "data/cifar10", "test")
    stored = rounded(model, WEIGHTS / f"{asked.net}.safetensors")
    record = {
        "net": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": macs(model),
        "test": score_images(stored, test),
        "test_float32": score_images(model, test),
        "steps": run.steps,
        "seconds": run.seconds,
        "settings": dataclasses.asdict(settings),
        "hardware": hardware(),
    }
    write_json(WEIGHTS / f"{asked.net}.json", record)
    print(json.dumps({key: record[key] for key in ("net", "test", "test_float32", "seconds")}))


if __name__ == "__main__":
    main()
