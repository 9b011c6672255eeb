"""A network pruned in one shot or in rounds, retrained, scored, and written as a complete folder."""

import copy
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import foldflat
from foldflat.checkpoint import check_target, save_model_files, writing_folder
from foldflat.errors import RecipeError
from foldflat.evaluate import (
    ImageDataset,
    Preprocessing,
    RetrainingSettings,
    calibration_batches,
    load_images,
    retrain,
    score_images,
)
from foldflat.filters.recipe import FilterRecipe
from foldflat.model.channels import named_tensors
from foldflat.model.hub.reading import copy_companions
from foldflat.model.latency import layer_costs, measure_latency
from foldflat.model.manifest import write_manifest
from foldflat.model.size import state_sha256
from foldflat.pipeline import Result, compress
from foldflat.report import pruning_markdown
from foldflat.workflow.networks import Network, open_network
from foldflat.workflow.rounds import Rounds

__all__ = ["PruningRun", "finish_pruning", "prune_folder", "prune_in_rounds", "read_images"]

_BATCH = 50
_TIMED = (1, 32)
_PASSES = 10


@dataclasses.dataclass(frozen=True)
class PruningRun:
    """Say what a pruning run does beside the recipe.

    Attributes:
        data: folder or hub name of labelled images; calibration and retraining take its split `train_split`.
        split: the one to score on.
        images: for calibration.
        image_size: to resize images to; None: what the model says, or as they are.
        rounds: prune and retrain so many times, each by the same share.
        retraining: of each round; None for none.
        distil: retrain against the original's outputs.
        max_examples: images to read of each split; None for all.
    """

    data: str
    train_split: str = "train"
    split: str = "test"
    images: int = 200
    image_size: int | None = None
    rounds: int = 1
    retraining: RetrainingSettings | None = None
    distil: bool = False
    max_examples: int | None = None

    def __post_init__(self) -> None:
        """Raise RecipeError for a value out of range."""
        for name in ("images", "rounds"):
            if getattr(self, name) < 1:
                raise RecipeError(f"`{name}` is {getattr(self, name)}; hint: at least 1")
        if self.rounds > 1 and self.retraining is None:
            raise RecipeError(f"`rounds` is {self.rounds}, but nothing is retrained between them; hint: give --steps")
        if self.distil and self.retraining is None:
            raise RecipeError("`distil` is given, but nothing is retrained; hint: give --steps")


def prune_folder(
    source: str,
    target: str | os.PathLike[str],
    recipe: FilterRecipe,
    run: PruningRun,
    *,
    weights: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    watch: Callable[[str], None] | None = None,
) -> Result:
    """Prune a network by a recipe, retrain it, and write a complete folder; score it before, between and after.

    A run that is interrupted while it retrains goes on when it is started again with the same settings: its state is
    in a hidden folder beside `target`, deleted at the end.

    Args:
        source: `package.module:function` that builds a network, or a folder or hub name of transformers.
        target: folder to make.
        recipe: what is asked of all rounds together.
        run: data, rounds and retraining.
        weights: .safetensors, where a function builds the network.
        overwrite: replace a target that exists.
        progress: show a bar while training.
        watch: called with a line of progress.

    Returns:
        the smaller network with its report, which also has `scores` and `rounds`, the `latency` of both networks in
        seconds by batch size, measured on this machine, and what each of their `layers` takes.
    """
    check_target(target, overwrite=overwrite)
    say = watch or (lambda _: None)
    say("Reading the network")
    network = open_network(source, weights)
    say("Reading images")
    train, test = (read_images(network, run, split) for split in (run.train_split, run.split))
    rounds = None
    if run.retraining is not None:
        original = state_sha256(named_tensors(network.model))
        task = {"network": source, "weights": original, "recipe": recipe.to_dict(), "run": dataclasses.asdict(run)}
        rounds = Rounds(target, task)
    result = prune_in_rounds(network, recipe, run, (train, test), rounds, progress=progress, say=say)
    finish_pruning(result, target, network, test, say=say, overwrite=overwrite)
    if rounds is not None:
        rounds.delete()
    return result


def finish_pruning(
    result: Result,
    target: str | os.PathLike[str],
    network: Network,
    test: ImageDataset,
    *,
    say: Callable[[str], None],
    overwrite: bool = False,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Time both networks and write a complete folder; `extra` adds files to the unfinished one."""
    say("Timing both networks")
    result.report |= _work(network.model, result.model, test)
    say("Writing the folder")
    _write(result, target, network, overwrite=overwrite, extra=extra)


def prune_in_rounds(
    network: Network,
    recipe: FilterRecipe,
    run: PruningRun,
    images: tuple[ImageDataset, ImageDataset],
    rounds: Rounds | None,
    *,
    progress: bool,
    say: Callable[[str], None],
) -> Result:
    """Prune and retrain until the recipe's size is met; rounds that ended before are not done again.

    Args:
        network, recipe, run, progress: as in `prune_folder`.
        images: to calibrate and retrain on, and to score on.
        rounds: where the state is kept; None without retraining.
        say: called with a line of progress.
    """
    train, test = images
    batches = calibration_batches(train, min(run.images, len(train)), recipe.seed, _BATCH)
    result: Result | None = None
    for number in range(1, run.rounds + 1):
        found = None if rounds is None else rounds.done(number, network)
        if found is not None:
            result = found
            continue
        if result is None:
            say("Scoring the network")
            before: dict[str, Any] = {"scores": {"original": score_images(network.model, test)}, "rounds": []}
            model, size = network.model, 1.0
        else:
            before, model, size = result.report, result.model, result.report["keep_ratio"]
        asked = min(1.0, recipe.keep_ratio ** (number / run.rounds) / size)
        result = compress(model, dataclasses.replace(recipe, keep_ratio=asked), batches, watch=say)
        entry: dict[str, Any] = {"pruned": score_images(result.model, test)}
        if run.retraining is not None and rounds is not None:
            say(f"Retraining, round {number} of {run.rounds}")
            teacher = copy.deepcopy(network.model) if run.distil else None
            folder = rounds.checkpoints(number)
            retrain(result.model, train, run.retraining, teacher=teacher, checkpoints=folder, progress=progress)
            entry["retrained"] = score_images(result.model, test)
        result.report = _merged(before, result.report, entry, recipe)
        result.report["original_sha256"] = state_sha256(named_tensors(network.model))
        if rounds is not None:
            rounds.finish(number, result)
    assert result is not None
    return result


def _merged(
    before: dict[str, Any], found: dict[str, Any], entry: dict[str, Any], recipe: FilterRecipe
) -> dict[str, Any]:
    """Return the report of all rounds so far: sizes of the original and of the last, every score."""
    first = {name: value for name, value in before.items() if name.endswith("_before")}
    merged: dict[str, Any] = {**found, **first, "recipe": recipe.to_dict()}
    measure = "size_bytes" if recipe.measure == "bytes" else recipe.measure
    merged["keep_ratio"] = merged[f"{measure}_after"] / merged[f"{measure}_before"]
    merged["rounds"] = [*before["rounds"], {"keep_ratio": merged["keep_ratio"], **entry}]
    merged["scores"] = {**before["scores"], "compressed": entry.get("retrained", entry["pruned"])}
    return merged


def _work(original: nn.Module, compressed: nn.Module, images: ImageDataset) -> dict[str, Any]:
    """Return seconds of a pass at two batch sizes, measured in turns on this machine, and what each layer takes."""
    batches = {size: images.normalised(torch.arange(min(size, len(images)))) for size in _TIMED}
    models = {"original": original, "compressed": compressed}
    return {
        "latency": {
            str(size): {name: found.median for name, found in measure_latency(models, batch, _PASSES).items()}
            for size, batch in batches.items()
        },
        "layers": {
            name: [dataclasses.asdict(cost) for cost in layer_costs(model, batches[1])]
            for name, model in models.items()
        },
    }


def read_images(network: Network, run: PruningRun, split: str) -> ImageDataset:
    """Return a split's images as a network takes them."""
    return load_images(
        run.data,
        split,
        preprocessing=network.preprocessing or Preprocessing(),
        image_size=run.image_size,
        max_examples=run.max_examples,
    )


def _write(
    result: Result,
    target: str | os.PathLike[str],
    network: Network,
    *,
    overwrite: bool,
    extra: Callable[[Path], None] | None,
) -> None:
    with writing_folder(target, overwrite=overwrite) as folder:
        manifest = save_model_files(result, folder)
        if network.build is None:
            copy_companions(network.text, folder)
        card = pruning_markdown(
            result.report,
            title=Path(target).name,
            loading=_loading(network, result.model),
            version=foldflat.__version__,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        if extra is not None:
            extra(folder)
        write_manifest(folder, manifest)


def _loading(network: Network, model: nn.Module) -> str:
    name = type(model).__name__
    if network.build is None:
        lines = f"from transformers import {name}\n\nmodel = {name}.from_pretrained(FOLDER)"
        needs = "[hf]"
    else:
        module, _, function = network.text.partition(":")
        lines = f"from {module} import {function}\n\nmodel = foldflat.load(FOLDER, model={function}())"
        needs = ""
    return f'Needs `pip install "foldflat{needs}"`.\n\n```python\nimport foldflat\n{lines}\n```'
