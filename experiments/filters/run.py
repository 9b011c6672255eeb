"""Accuracy against size: every method, pruned to the same size from the same images, before and after retraining.

A cell is one network, method, keep ratio and seed; it is written as it comes, and never run twice. The seed draws the
200 calibration images, what a method draws, and the order of retraining. Torch-Pruning prunes by itself, its ratio
searched until the size is within 1 % of the target: one ratio for all layers, or where its steps are too large for
that, its global threshold. The size is that in parameters, or with `--measure macs` in multiplications. Writes
experiments/filters/results.

    python experiments/filters/run.py [--nets resnet20 ..] [--keep 0.6 ..] [--methods pfp ..] [--seeds 0 ..]
"""

import argparse
import copy
import itertools
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from safetensors.torch import load_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from filters.nets import NETS, macs
from shared import DATA, hardware, write_json

import foldflat
from foldflat.errors import BudgetError
from foldflat.evaluate import ImageDataset, RetrainingSettings, calibration_batches, load_images, retrain, score_images

RESULTS = Path(__file__).resolve().parent / "results"
WEIGHTS = Path(__file__).resolve().parent / "weights"
IMAGES, STEPS = 200, 200
LEARNING_RATE = 0.02
METHODS: dict[str, dict[str, Any]] = {
    "reconstruction": {"method": "reconstruction"},
    "pfp": {"method": "pfp"},
    "pfp-random": {"method": "pfp", "variant": "random"},
    "pfp-hybrid": {"method": "pfp", "variant": "hybrid"},
    "l1": {"method": "l1"},
    "l2": {"method": "l2"},
    "batchnorm": {"method": "batchnorm"},
    "taylor": {"method": "taylor"},
    "random": {"method": "random"},
    "pfp-refit": {"method": "pfp", "refit": True},
    "l2-refit": {"method": "l2", "refit": True},
}
PEERS = {"torch-pruning-magnitude": "magnitude", "torch-pruning-taylor": "taylor"}


def load_net(name: str) -> nn.Module:
    """Return a trained network in eval mode."""
    model = NETS[name]()
    file = WEIGHTS / f"{name}.safetensors"
    if name == "resnet20":
        file = next((DATA / "models" / "resnet20-cifar10").glob("*.safetensors"))
    model.load_state_dict(load_file(file))
    return model.eval()


def parameters(model: nn.Module) -> int:
    """Return how many numbers a network holds."""
    return sum(parameter.numel() for parameter in model.parameters())


MEASURES = {"parameters": parameters, "macs": macs}


def pruned_by_us(recipe: dict[str, Any], model: nn.Module, batches: list[Tensor]) -> nn.Module:
    """Return our smaller network."""
    return foldflat.compress(model, foldflat.FilterRecipe(**recipe), batches).model


def pruned_by_peer(
    model: nn.Module, importance: str, keep: float, measure: str, batches: list[Tensor]
) -> tuple[nn.Module, str]:
    """Return Torch-Pruning's network whose size is nearest to the share `keep`, and how its ratio was spread.

    One ratio for all layers where that comes within 1 % of the whole network, otherwise one threshold for all.

    Raises:
        LookupError: neither does.
    """
    size_of = MEASURES[measure]
    whole = size_of(model)
    for spread in ("uniform", "global"):
        found: dict[int, nn.Module] = {}
        low, high = 0.0, 0.99
        for _ in range(16):
            ratio = (low + high) / 2
            tried = _peer(model, importance, ratio, batches, whole_network=spread == "global")
            size = size_of(tried)
            found[size] = tried
            low, high = (ratio, high) if size > keep * whole else (low, ratio)
        nearest = min(found, key=lambda size: abs(size - keep * whole))
        if abs(nearest - keep * whole) <= 0.01 * whole:
            return found[nearest], spread
    raise LookupError("no pruning ratio comes within 1 % of the size")


def _peer(model: nn.Module, importance: str, ratio: float, batches: list[Tensor], *, whole_network: bool) -> nn.Module:
    model = copy.deepcopy(model).eval()
    kinds = {
        "magnitude": torch_pruning.importance.MagnitudeImportance(p=2),
        "taylor": torch_pruning.importance.TaylorImportance(),
    }
    if importance == "taylor":
        for batch in batches:
            logits = model(batch)
            (nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum") / IMAGES).backward()
    heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        batches[0][:2],
        importance=kinds[importance],
        pruning_ratio=ratio,
        ignored_layers=heads,
        global_pruning=whole_network,
    )
    pruner.step()
    model.zero_grad()
    model(batches[0][:2])
    return model


def cell(values: dict[str, Any], train: ImageDataset, test: ImageDataset) -> dict[str, Any]:
    """Prune, score, retrain, score."""
    net, method, keep, seed, measure = (values[k] for k in ("net", "method", "keep_ratio", "seed", "measure"))
    model = load_net(net)
    batches = calibration_batches(train, IMAGES, seed, batch_size=50)
    started = time.perf_counter()
    try:
        if method in METHODS:
            recipe = METHODS[method] | {"keep_ratio": keep, "measure": measure, "seed": seed}
            small = pruned_by_us(recipe, model, batches)
        else:
            small, values["spread"] = pruned_by_peer(model, PEERS[method], keep, measure, batches)
    except (BudgetError, LookupError, RuntimeError, AttributeError, AssertionError) as error:
        return values | {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    values["prune_seconds"] = time.perf_counter() - started
    values["parameters_kept"] = parameters(small) / parameters(model)
    values["macs_kept"] = macs(small) / macs(model)
    values["before"] = score_images(small, test)
    settings = RetrainingSettings(
        seed=seed, max_steps=STEPS, learning_rate=LEARNING_RATE, warmup_ratio=0.1, bf16=True, channels_last=True
    )
    for parameter in small.parameters():
        parameter.requires_grad_(True)
    values["retrain_seconds"] = retrain(small, train, settings, progress=False).seconds
    values["after"] = score_images(small, test)
    return values | {"settings": asdict(settings), "images": IMAGES, "hardware": hardware()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--keep", nargs="+", type=float, default=[0.6, 0.4, 0.8, 0.2])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *PEERS], default=[*METHODS, *PEERS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--measure", choices=MEASURES, default="parameters")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    warnings.simplefilter("ignore")
    train, test = (load_images(DATA / "data/cifar10", split) for split in ("train", "test"))
    for net in asked.nets:
        file = RESULTS / f"{net}-baseline.json"
        if not file.exists():
            score = score_images(load_net(net), test)
            model = load_net(net)
            size = {"parameters": parameters(model), "macs": macs(model)}
            write_json(file, {"net": net, "test": score, **size, "hardware": hardware()})
    for seed, keep, net, method in itertools.product(asked.seeds, asked.keep, asked.nets, asked.methods):
        measure = "" if asked.measure == "parameters" else f"-{asked.measure}"
        file = RESULTS / f"{net}-{method}{measure}-{keep}-{seed}.json"
        if file.exists():
            continue
        values = {"net": net, "method": method, "keep_ratio": keep, "seed": seed, "measure": asked.measure}
        values = cell(values, train, test)
        write_json(file, values)
        scores = [f"{values[when]['accuracy']:.4f}" for when in ("before", "after") if when in values]
        print(net, method, keep, seed, *scores, values.get("failed", ""), flush=True)


if __name__ == "__main__":
    main()
