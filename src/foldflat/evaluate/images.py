"""Image classification data in memory: splits read from a folder or the hub, calibration batches, accuracy."""

import dataclasses
import io
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from foldflat.errors import DataError, RecipeError
from foldflat.evaluate.optional import require
from foldflat.evaluate.preprocessing import Preprocessing
from foldflat.evaluate.reading import read_split
from foldflat.randomness import torch_generator

__all__ = ["ImageDataset", "calibration_batches", "hold_out", "load_images", "logits_of", "score_images"]


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
    """Hold images and labels in memory, as pixels, and hand out batches that are ready for a network.

    `images` is uint8 (n, channels, height, width), `labels` int64 (n,), `classes` the names of the labels.
    Indexing by a list gives `pixel_values`, still uint8, and `labels`; `normalised` makes float32 of pixels.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one image (channels, height, width) and its label."""
        return {"pixel_values": self.images[index], "labels": self.labels[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """Return a batch: torch's DataLoader asks for it at once, which spares stacking single images."""
        return {"pixel_values": self.images[indices], "labels": self.labels[indices]}

    def part(self, indices: Tensor) -> "ImageDataset":
        """Return the images of these positions (m,), in this order, as a data set of their own."""
        return dataclasses.replace(self, images=self.images[indices], labels=self.labels[indices])

    def normalised(self, indices: Any) -> Tensor:
        """Return these images as a network takes them: float32 (m, channels, height, width)."""
        return self.preprocessing.normalise(self.images[indices])


def load_images(
    data: str | os.PathLike[str],
    split: str = "train",
    *,
    preprocessing: Preprocessing | None = None,
    image_size: int | None = None,
    max_examples: int | None = None,
) -> ImageDataset:
    """Read one split of an image classification data set and decode it once, into memory.

    The columns are found by their kind, `Image` and `ClassLabel`, whatever their names. A pixel takes a byte,
    so 50,000 images of 32 x 32 take 154 MB, and as many of 224 x 224 take 7.5 GB: `max_examples` keeps the
    first so many. Images are turned into RGB and, where a size is known, made square (see `Preprocessing`).

    Args:
        data: a folder, or a name on the hub, that `datasets.load_dataset(data)` reads.
        split: its name in the data set.
        preprocessing: of the model to be served; None: ImageNet's mean and deviation, no resizing.
        image_size: resize to this height and width, in place of the size that `preprocessing` names.
        max_examples: None for all.

    Raises:
        ModelNotFoundError: there is no such folder or data set.
        DataError: no split of this name, an empty one, none or several columns of images or labels, images
            that cannot be decoded or differ in size while no size is given, hidden labels.
        RecipeError: a setting is out of range.
    """
    for name, value in (("image_size", image_size), ("max_examples", max_examples)):
        if value is not None and value < 1:
            raise RecipeError(f"`{name}` is {value}\nhint: at least 1, or None")
    preprocessing = preprocessing or Preprocessing()
    if image_size is not None:
        preprocessing = dataclasses.replace(preprocessing, image_size=image_size, resize=None)
    rows = read_split(data, split)
    if max_examples is not None:
        rows = rows.select(range(min(max_examples, len(rows))))
    if len(rows) == 0:
        raise DataError(f"split {split!r} of {str(data)!r} has no rows")
    column, label = _column(rows, "Image"), _column(rows, "ClassLabel")
    classes = tuple(rows.features[label].names)
    return ImageDataset(_pixels(rows, column, preprocessing), _labels(rows, label, classes), classes, preprocessing)


def hold_out(dataset: ImageDataset, count: int, seed: int = 0) -> tuple[ImageDataset, ImageDataset]:
    """Split off `count` images drawn at random: the rest, and those; RecipeError unless both keep some."""
    if not 1 <= count < len(dataset):
        raise RecipeError(f"`count` is {count}\nhint: from 1 to {len(dataset) - 1}, below the {len(dataset)} images")
    order = torch.randperm(len(dataset), generator=torch_generator(seed))
    return dataset.part(order[count:].sort().values), dataset.part(order[:count].sort().values)


def calibration_batches(dataset: ImageDataset, count: int = 200, seed: int = 0, batch_size: int = 64) -> list[Tensor]:
    """Draw `count` images without replacement, normalised, in float32 batches (b, channels, height, width).

    Take them from the training split, or a part of it that is held out, never from the images that a result is
    scored on. Labels are left behind. The same seed draws the same images, whatever the batch size.

    Raises RecipeError for fewer than one image a batch, and for more images than there are.
    """
    if batch_size < 1:
        raise RecipeError(f"`batch_size` is {batch_size}\nhint: at least 1")
    if not 1 <= count <= len(dataset):
        raise RecipeError(f"`count` is {count} calibration images\nhint: from 1 to the {len(dataset)} of this split")
    chosen = torch.randperm(len(dataset), generator=torch_generator(seed))[:count]
    return [dataset.normalised(indices) for indices in chosen.split(batch_size)]


@torch.no_grad()
def score_images(model: nn.Module, dataset: ImageDataset, batch_size: int = 256) -> dict[str, Any]:
    """Return accuracy and mean cross-entropy over a data set: `accuracy`, `loss`, and the number of images `n`.

    The model computes in eval mode on its own device and is left in the mode it had.

    Raises DataError for images that the model does not take, logits of another shape than (b, classes), and
    logits that are NaN; RecipeError for a batch size below 1.
    """
    if batch_size < 1:
        raise RecipeError(f"`batch_size` is {batch_size}\nhint: at least 1")
    device, training = next(model.parameters()).device, model.training
    correct, loss = 0, 0.0
    model.eval()
    try:
        for indices in torch.arange(len(dataset)).split(batch_size):
            labels = dataset.labels[indices].to(device)
            logits = logits_of(model, dataset.normalised(indices).to(device), len(dataset.classes))
            if torch.isnan(logits).any():
                raise DataError(
                    f"the model's logits of images {indices[0]} to {indices[-1]} are NaN\n"
                    "hint: look for NaN in its weights and its running statistics"
                )
            correct += int((logits.argmax(1) == labels).sum())
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
    finally:
        model.train(training)
    return {"accuracy": correct / len(dataset), "loss": loss / len(dataset), "n": len(dataset)}


def logits_of(model: nn.Module, images: Tensor, classes: int) -> Tensor:
    """Run a model, plain or of transformers, and return its logits (n, classes) as float32.

    Raises DataError where the model does not take images of this shape or gives something else.
    """
    try:
        output = model(images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        laid_out = "" if images.is_contiguous() else "; or `channels_last=False`, where the model calls `view`"
        raise DataError(
            f"{type(model).__name__} does not take images of shape {list(images.shape)}: {error}\n"
            f"hint: `image_size` has to be the size that the model was trained on, in RGB{laid_out}"
        ) from error
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.shape != (len(images), classes):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise DataError(
            f"{type(model).__name__} gives {found} for {len(images)} images of {classes} classes\n"
            f"hint: logits of shape {[len(images), classes]} are needed, alone or as `.logits`"
        )
    return logits.float()


def _column(rows: Any, kind: str) -> str:
    """Return the only column whose feature is of this class of `datasets`."""
    found = [name for name, feature in rows.features.items() if type(feature).__name__ == kind]
    if len(found) == 1:
        return str(found[0])
    listed = ", ".join(f"{name!r} ({type(feature).__name__})" for name, feature in rows.features.items())
    raise DataError(
        f"{len(found) or 'no'} column{'s' if found else ''} of kind {kind} among {listed}\n"
        f"hint: exactly one is needed; `Dataset.cast_column` makes one, `remove_columns` takes others away"
    )


def _labels(rows: Any, column: str, classes: tuple[str, ...]) -> Tensor:
    values = [-1 if value is None else value for value in rows[column][:]]
    labels = torch.tensor(values, dtype=torch.int64)
    bad = (labels < 0) | (labels >= len(classes))
    if bad.any():
        row = int(bad.nonzero()[0])
        raise DataError(
            f"{int(bad.sum())} labels are none of the {len(classes)} classes, the first {labels[row]} in row {row}\n"
            "hint: hidden labels, as in some test splits, cannot be scored; use another split"
        )
    return labels


def _pixels(rows: Any, column: str, preprocessing: Preprocessing) -> Tensor:
    """Decode a column into uint8 (n, 3, height, width)."""
    undecoded = require("datasets", "eval").Image(decode=False)
    pixels: Tensor | None = None
    for row, cell in enumerate(rows.select_columns(column).cast_column(column, undecoded)):
        image = torch.from_numpy(_decoded(cell[column], row, preprocessing)).permute(2, 0, 1)
        if pixels is None:
            pixels = torch.empty((len(rows), *image.shape), dtype=torch.uint8)
        if image.shape != pixels.shape[1:]:
            first, other = ((shape[-1], shape[-2]) for shape in (pixels.shape, image.shape))
            raise DataError(
                f"image 0 has {first[0]} x {first[1]} pixels, image {row} has {other[0]} x {other[1]}\n"
                "hint: `image_size` resizes them to one size"
            )
        pixels[row] = image
    assert pixels is not None, "load_images refuses an empty split"
    return pixels


def _decoded(cell: dict[str, Any] | None, row: int, preprocessing: Preprocessing) -> np.ndarray[Any, np.dtype[Any]]:
    """Decode the bytes or the file of one image into (height, width, 3)."""
    image = require("PIL.Image", "eval")
    try:
        source = io.BytesIO(cell["bytes"]) if cell and cell["bytes"] is not None else (cell or {})["path"]
        with image.open(source) as opened:
            return np.array(preprocessing.resized(opened.convert("RGB")))
    except (OSError, KeyError, AttributeError) as error:
        raise DataError(f"image {row} cannot be decoded: {error}\nhint: leave this row out") from error
