"""Where sensitivities tell channels apart: their sum in every group, and what one epsilon keeps at 60 % of a network.

A sum S near the number of channels says that nearly every channel dominates an output somewhere: then the shares of
layers carry little. Writes experiments/filters/shares.json.

    python experiments/filters/shares.py [--threads 1]
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from filters.nets import NETS
from filters.run import IMAGES, load_net
from shared import DATA, hardware, write_json

import foldflat
from foldflat.evaluate import calibration_batches, load_images

KEEP = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    batches = calibration_batches(load_images(DATA / "data/cifar10", "train"), IMAGES)
    values: dict[str, Any] = {"keep_ratio": KEEP, "images": IMAGES, "hardware": hardware(), "nets": {}}
    for net in NETS:
        plan = foldflat.plan(load_net(net), foldflat.FilterRecipe(keep_ratio=KEEP, method="pfp"), batches)
        groups = [{"name": g.name, "size": g.size, "kept": len(g.kept), "S": g.total_sensitivity} for g in plan.groups]
        values["nets"][net] = {"epsilon": plan.epsilon, "delta": plan.delta, "groups": groups}
        print(net, plan.epsilon, groups, flush=True)
    write_json(Path(__file__).resolve().parent / "shares.json", values)


if __name__ == "__main__":
    main()
