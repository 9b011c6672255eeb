"""The smallest pruned network whose risk can be promised to be below a limit."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from foldflat.certify import example_hash
from foldflat.checkpoint import check_target
from foldflat.errors import RecipeError
from foldflat.evaluate import ImageDataset, hold_out, score_images
from foldflat.filters.recipe import FilterRecipe
from foldflat.model.size import state_sha256
from foldflat.pipeline import Result
from foldflat.workflow.certificates.files import keep_certificate
from foldflat.workflow.certificates.images import ImageData, apart, labelled
from foldflat.workflow.certificates.promise import Promise
from foldflat.workflow.certificates.searching import CertifiedSearch, Ladder, search
from foldflat.workflow.certificates.testing import Original
from foldflat.workflow.networks import Network, open_network
from foldflat.workflow.pruning import PruningRun, finish_pruning, prune_in_rounds, read_images
from foldflat.workflow.rounds import Rounds

__all__ = ["filter_recipes", "prune_certified"]

_KEPT = (
    *(0.98, 0.95, 0.92, 0.9, 0.87, 0.85, 0.82, 0.8, 0.75, 0.7, 0.65),
    *(0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1),
)


def prune_certified(
    source: str,
    target: str | os.PathLike[str],
    recipe: FilterRecipe,
    run: PruningRun,
    promise: Promise,
    *,
    weights: Path | None = None,
    plan_examples: int = 2000,
    overwrite: bool = False,
    progress: bool = True,
    watch: Callable[[str], None] | None = None,
) -> CertifiedSearch:
    """Prune a network as far as can be promised, and write a complete folder with the certificate.

    Images to plan with are held out of the training split, so that no candidate is calibrated or retrained on them;
    candidates are certified on `run.split`, and images that are in both splits are left out of the former. Nothing is
    written where none can be promised. An interrupted run goes on with the candidates that it had retrained.

    Args:
        source, target, run, weights, overwrite, progress, watch: as in `prune_folder`.
        recipe: its keep ratio is the largest that is tried.
        promise: what is to be shown.
        plan_examples: images to plan with.

    Raises:
        RecipeError: more images to plan with than there are; certifying on the training split.
        DataError: see `search`.
    """
    check_target(target, overwrite=overwrite)
    say = watch or (lambda _: None)
    data = ImageData(run.data, run.split, weights, run.image_size)
    say("Reading the network")
    network = open_network(source, weights)
    say("Reading images")
    train, test = (read_images(network, run, split) for split in (run.train_split, run.split))
    examples = labelled(test, data.split)
    train, left_out = apart(train, test)
    if plan_examples >= len(train):
        raise RecipeError(f"{plan_examples} images to plan with of {len(train)}\nhint: fewer: the others calibrate")
    images = hold_out(train, plan_examples, recipe.seed)
    candidates = _Candidates(network, Path(target).absolute(), recipe, run, images, progress, say)
    found = search(
        Original(source, network.model, candidates.original),
        Ladder(list(candidates.recipes), candidates.make, candidates.described),
        labelled(images[1], f"{run.train_split}, held out"),
        examples,
        promise,
        plan_examples=plan_examples,
        seed=recipe.seed,
        progress=progress,
        watch=watch,
    )
    found.report["planned_with"]["left_out"] += left_out
    if found.chosen is not None:
        result, made = found.chosen[1], found.report["certificate"]
        # so far of the images to plan with, on which the original was trained
        result.report["scores"] = {
            name: score_images(model, test)
            for name, model in (("original", network.model), ("compressed", result.model))
        }
        finish_pruning(
            result, target, network, test, say=say, overwrite=overwrite, extra=lambda at: keep_certificate(at, made)
        )
    candidates.forget()
    return found


class _Candidates:
    """Make pruned networks; what retraining needs to go on after an interruption lies on disk until it is forgotten.

    Args:
        network: to prune.
        target: folder to make, beside which the state lies.
        recipe: with the largest keep ratio.
        run: data, rounds and retraining.
        images: to calibrate and retrain on, and to plan with.
        progress, say: how to tell.
    """

    def __init__(
        self,
        network: Network,
        target: Path,
        recipe: FilterRecipe,
        run: PruningRun,
        images: tuple[ImageDataset, ImageDataset],
        progress: bool,
        say: Callable[[str], None],
    ) -> None:
        self._network, self._target, self._run, self._images = network, target, run, images
        self._progress, self._say = progress, say
        self._rounds: list[Rounds] = []
        self.recipes = filter_recipes(recipe)
        self.original = state_sha256(network.model.state_dict())
        seen = labelled(images[0], run.train_split).hashes
        self.described = {
            "recipe": recipe.to_dict(),
            "run": dataclasses.asdict(run),
            "images": example_hash(*seen),
        }

    def make(self, name: str) -> Result:
        """Return a candidate, pruned, and retrained where that is asked for."""
        asked = self.recipes[name]
        rounds = None
        if self._run.retraining is not None:
            about = {"network": self._network.text, "weights": self.original, "recipe": asked.to_dict()}
            rounds = Rounds(f"{self._target}-{asked.keep_ratio:g}", self.described | about)
            self._rounds.append(rounds)
        return prune_in_rounds(
            self._network, asked, self._run, self._images, rounds, progress=self._progress, say=self._say
        )

    def forget(self) -> None:
        """Delete the state."""
        for rounds in self._rounds:
            rounds.delete()


def filter_recipes(recipe: FilterRecipe) -> dict[str, FilterRecipe]:
    """Return ever smaller recipes by name, from the given one on."""
    kept = [recipe.keep_ratio, *(ratio for ratio in _KEPT if ratio < recipe.keep_ratio)]
    return {f"keep {ratio:g}": dataclasses.replace(recipe, keep_ratio=ratio) for ratio in kept}
