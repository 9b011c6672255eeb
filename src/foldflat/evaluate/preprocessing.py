"""What a network expects of its images: size, mean and deviation."""

import dataclasses
import os
from typing import Any

import torch
from torch import Tensor

from foldflat.errors import DataError, ModelNotFoundError, RecipeError
from foldflat.evaluate.names import local_folder
from foldflat.evaluate.optional import require

__all__ = ["IMAGENET_DEVIATION", "IMAGENET_MEAN", "Preprocessing", "preprocessing_of"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_BILINEAR = 2  # as Pillow counts its filters


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Say how pixels become a network's input: (pixel / 255 - mean) / deviation, per channel of RGB.

    With `image_size` the shorter side is resized to `resize` pixels (None: to `image_size`) by Pillow's filter
    number `resample`, and the square of `image_size` pixels in the middle is kept; `squash` resizes both sides to
    `image_size` instead. None keeps images as they are.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_DEVIATION
    image_size: int | None = None
    resize: int | None = None
    resample: int = _BILINEAR
    squash: bool = False

    def __post_init__(self) -> None:
        """Raise RecipeError for means or deviations that are not three, and for deviations not above 0."""
        for name in ("mean", "deviation"):
            if len(getattr(self, name)) != 3:
                raise RecipeError(f"`{name}` is {getattr(self, name)}\nhint: three numbers, for red, green and blue")
        if not min(self.deviation) > 0:
            raise RecipeError(f"`deviation` is {self.deviation}\nhint: three numbers above 0")

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return float32 (n, 3, height, width) of uint8 pixels of the same shape, on the same device."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1) * 255
        deviation = torch.tensor(self.deviation, device=pixels.device).view(3, 1, 1) * 255
        return pixels.float().sub_(mean).div_(deviation)

    def resized(self, image: Any) -> Any:
        """Return a Pillow image at the size that the network takes."""
        if self.image_size is None:
            return image
        side = self.image_size
        width, height = self._target(image.size, side)
        if (width, height) != image.size:
            image = image.resize((width, height), self.resample)
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side))

    def _target(self, size: tuple[int, int], side: int) -> tuple[int, int]:
        """Return width and height before the crop; the longer side is rounded down, as transformers does it."""
        if self.squash:
            return side, side
        shorter = max(side, self.resize or side)
        width, height = (max(shorter, shorter * length // min(size)) for length in size)
        return width, height


def preprocessing_of(model: str | os.PathLike[str]) -> Preprocessing:
    """Read the preprocessing of a transformers model from its folder or hub name.

    The image processor itself is not run: size, crop, filter, mean and deviation are read from its settings.

    Raises ModelNotFoundError where there is no `preprocessor_config.json`; DataError for one without mean and
    deviation or whose pixels are not scaled by 1 / 255.
    """
    source = str(local_folder(model) or model)
    mixin = require("transformers.image_processing_base", "hf").ImageProcessingMixin
    try:
        settings, _ = mixin.get_image_processor_dict(source)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"no image processor in {source!r}: {error}\nhint: save one there, or give mean and deviation yourself"
        ) from error
    if settings.get("rescale_factor", 1 / 255) != 1 / 255 or not {"image_mean", "image_std"} <= settings.keys():
        raise DataError(
            f"the image processor of {source!r} does not scale pixels by 1 / 255 and normalise them\n"
            "hint: give a Preprocessing of your own"
        )
    size, resize = _sizes(settings)
    return Preprocessing(
        mean=tuple(settings["image_mean"]),
        deviation=tuple(settings["image_std"]),
        image_size=size,
        resize=resize,
        squash=resize is None and "height" in _size(settings),
        resample=settings.get("resample") or _BILINEAR,
    )


def _sizes(settings: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the side of the network's square and that of the resized image, as transformers writes them."""
    if not settings.get("do_resize", True):
        return None, None
    short = _side(_size(settings))
    if settings.get("do_center_crop") and settings.get("crop_size"):
        return _side(settings["crop_size"]), short
    share = settings.get("crop_pct")  # ConvNeXt: the square is this share of the resized side, below 384
    if share and short and short < 384:
        return short, int(short / share)
    return short, None


def _size(settings: dict[str, Any]) -> dict[str, int]:
    size = settings.get("size") or {}
    return size if isinstance(size, dict) else {"shortest_edge": size}


def _side(size: dict[str, int] | int) -> int | None:
    if isinstance(size, int):
        return size
    return size.get("shortest_edge") or size.get("height")
