"""Labelled images, to compare image networks on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from foldflat.certify import Risk, accuracy_drop, disagreement, example_hash
from foldflat.checkpoint import load
from foldflat.errors import DataError, RecipeError
from foldflat.evaluate import ImageDataset, Preprocessing, load_images
from foldflat.evaluate.images import logits_of
from foldflat.workflow.certificates.promise import different, repeats
from foldflat.workflow.networks import Network, open_network

__all__ = ["ImageData", "LabelledImages", "apart", "labelled"]

_BATCH = 256


@dataclass(frozen=True)
class ImageData:
    """Say on which images networks are compared.

    Attributes:
        data: folder or hub name of labelled images.
        split: held-out images, that neither network nor compression has seen.
        weights: .safetensors, where a function builds the original.
        image_size: to resize images to; None: what the model says, or as they are.

    Raises:
        RecipeError: the training split.
    """

    data: str
    split: str = "test"
    weights: Path | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.split.startswith("train"):
            raise RecipeError(f"split {self.split!r} was trained on, so it says nothing about other images\nhint: test")

    def open(self, original: str, compressed: str) -> "tuple[Any, Any, LabelledImages]":
        """Return two networks in eval mode, and the images to certify with."""
        network = open_network(original, self.weights)
        pruned = load(compressed, model=None if network.build is None else network.build()).eval()
        return network.model, pruned, labelled(self.images(network), self.split)

    def images(self, network: Network) -> ImageDataset:
        """Return the images as a network takes them."""
        preprocessing = network.preprocessing or Preprocessing()
        return load_images(self.data, self.split, preprocessing=preprocessing, image_size=self.image_size)


@dataclass(frozen=True)
class LabelledImages:
    """Hold images with their labels; see `Examples`."""

    dataset: ImageDataset
    hashes: list[str]
    about: dict[str, Any]
    risks: tuple[str, ...] = ("accuracy-drop", "disagreement")

    def part(self, positions: list[int]) -> Self:
        """Return some of the examples."""
        chosen = self.dataset.part(torch.tensor(positions, dtype=torch.int64))
        return replace(self, dataset=chosen, hashes=[self.hashes[i] for i in positions])

    @torch.no_grad()
    def outputs(self, model: Any, *, progress: bool = False) -> NDArray[Any]:  # noqa: ARG002 (of `Examples`)
        """Return logits (n, classes), computed in eval mode."""
        device, training = next(model.parameters()).device, model.training
        model.eval()
        try:
            logits = [
                logits_of(model, self.dataset.normalised(positions).to(device), len(self.dataset.classes))
                for positions in torch.arange(len(self.dataset)).split(_BATCH)
            ]
        finally:
            model.train(training)
        found: NDArray[Any] = torch.cat(logits).cpu().numpy()
        return found

    def measure(self, risk: str, original: NDArray[Any], compressed: NDArray[Any]) -> Risk:
        """Return a risk."""
        if risk == "disagreement":
            return disagreement(original, compressed)
        return accuracy_drop(original, compressed, np.asarray(self.dataset.labels))


def labelled(dataset: ImageDataset, split: str) -> LabelledImages:
    """Return the different examples of a data set, whose split is called so."""
    pixels, labels = dataset.images.numpy(), dataset.labels.tolist()
    hashes = [example_hash(image.tobytes(), str(label)) for image, label in zip(pixels, labels, strict=True)]
    about = {"task": "images", "split": split, "classes": len(dataset.classes), **repeats(hashes)}
    return LabelledImages(dataset, hashes, about).part(different(hashes))


def apart(dataset: ImageDataset, others: ImageDataset) -> tuple[ImageDataset, int]:
    """Return the images that are not among others, whatever their labels, and how many were left out for that.

    Raises:
        DataError: all of them are.
    """
    taken = {example_hash(image.tobytes()) for image in others.images.numpy()}
    free = [i for i, image in enumerate(dataset.images.numpy()) if example_hash(image.tobytes()) not in taken]
    if not free:
        raise DataError(
            f"all {len(dataset)} images to train and plan with are among those to certify with\n"
            "hint: another split: who chooses by examples cannot promise on the same"
        )
    left_out = len(dataset) - len(free)
    return (dataset.part(torch.tensor(free)) if left_out else dataset), left_out
