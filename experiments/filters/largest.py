"""How small may a network be whose accuracy is at most half a point below the original's? One shot plus retraining.

Sizes are tried from large to small until one fails; each is pruned by the default method from 200 images and retrained
against the original's outputs. The test images decide, as in the papers' tables, so the size is an optimistic choice.
Writes experiments/filters/largest/NET.json, after each size.

    python experiments/filters/largest.py [--net resnet20] [--sizes 0.8 ..] [--steps 1000] [--threads 1]
"""

import argparse
import copy
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from filters.nets import NETS, macs
from filters.run import IMAGES, load_net
from shared import DATA, hardware, read_json, write_json

import foldflat
from foldflat.evaluate import RetrainingSettings, calibration_batches, load_images, retrain, score_images

SIZES = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
ALLOWED = 0.005
FOLDER = Path(__file__).resolve().parent / "largest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", choices=NETS, default="resnet20")
    parser.add_argument("--sizes", nargs="+", type=float, default=SIZES)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    train, test = (load_images(DATA / "data/cifar10", split) for split in ("train", "test"))
    original = load_net(asked.net)
    settings = RetrainingSettings(
        max_steps=asked.steps, learning_rate=0.05, warmup_ratio=0.1, bf16=True, channels_last=True
    )
    file = FOLDER / f"{asked.net}.json"
    values: dict[str, Any] = {"net": asked.net, "test": score_images(original, test), "settings": asdict(settings)}
    values |= {"images": IMAGES, "allowed": ALLOWED, "hardware": hardware(), "sizes": []}
    if file.exists():
        values = read_json(file)
    for keep in asked.sizes[len(values["sizes"]) :]:
        result = foldflat.compress(original, foldflat.FilterRecipe(keep_ratio=keep), calibration_batches(train, IMAGES))
        cell: dict[str, Any] = {"keep_ratio": keep, "before": score_images(result.model, test)}
        retrain(result.model, train, settings, teacher=copy.deepcopy(original), progress=False)
        cell["after"] = score_images(result.model, test)
        cell["parameters_kept"] = result.report["parameters_after"] / result.report["parameters_before"]
        cell["macs_kept"] = macs(result.model) / macs(original)
        cell["within"] = cell["after"]["accuracy"] >= values["test"]["accuracy"] - ALLOWED
        values["sizes"].append(cell)
        write_json(file, values)
        print(keep, cell["before"]["accuracy"], cell["after"]["accuracy"], flush=True)
        if not cell["within"]:
            break


if __name__ == "__main__":
    main()
