"""Images read into memory, calibration drawn from them, models scored on them."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foldflat.errors import DataError, ModelNotFoundError, RecipeError
from foldflat.evaluate import (
    ImageDataset,
    Preprocessing,
    calibration_batches,
    hold_out,
    load_images,
    preprocessing_of,
    score_images,
)


class Brightest(nn.Module):
    """Predict the brightest channel: right on every image of `colours`."""

    def __init__(self, scale: float = 1.0, wrapped: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.wrapped = wrapped

    def forward(self, images: Tensor) -> Any:
        """Return logits (n, 3), alone or as transformers does."""
        deviation = torch.tensor(Preprocessing().deviation).view(3, 1, 1)
        mean = torch.tensor(Preprocessing().mean).view(3, 1, 1)
        logits = (images * deviation + mean).mean((2, 3)) * self.scale
        return SimpleNamespace(logits=logits) if self.wrapped else logits


def test_pixels_and_labels_are_those_of_the_files(image_folder: Callable[..., Path]) -> None:
    """The oracle is Pillow on each row; columns are found by kind, here with names of their own."""
    from datasets import ClassLabel, Dataset, Image, Value
    from tests.tiny import image_rows

    rows = image_rows(6, seed=3)
    spare: dict[str, Any] = {"img": (None, []), "label": (None, [])}
    renamed = {"picture": (Image(), rows["img"]), "kind": (ClassLabel(names=["a", "b", "c"]), rows["label"])}
    folder = image_folder(6, **spare, **renamed, caption=(Value("string"), ["x"] * 6))
    dataset = load_images(folder)
    assert isinstance(dataset, ImageDataset)
    assert dataset.images.dtype == torch.uint8
    expected = np.stack([np.asarray(image) for image in rows["img"]])
    assert np.array_equal(dataset.images.permute(0, 2, 3, 1).numpy(), expected)
    assert dataset.labels.tolist() == rows["label"]
    assert dataset.classes == ("a", "b", "c")
    assert len(load_images(folder, max_examples=4)) == 4
    assert Dataset.from_parquet(str(folder / "train.parquet")).num_rows == 6


def test_normalising_by_hand(colours: ImageDataset) -> None:
    """Pixel 255 with mean 0.5 and deviation 0.25 is 2; the default is ImageNet's."""
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert Preprocessing((0.5,) * 3, (0.25,) * 3).normalise(white).tolist() == torch.full((1, 3, 2, 2), 2.0).tolist()
    red = (1 - 0.485) / 0.229
    assert Preprocessing().normalise(white)[0, 0, 0, 0].item() == pytest.approx(red)
    assert colours.normalised([0, 1]).dtype == torch.float32


def test_images_become_rgb_and_square(image_folder: Callable[..., Path]) -> None:
    """A grey image of 20 x 10 and a colour one of 12 x 16, both halved or so and cut to 5 x 5."""
    from datasets import Image
    from PIL import Image as pillow  # noqa: N813 (a module)

    shapes = [pillow.new("L", (20, 10), 99), pillow.new("RGB", (12, 16), (1, 2, 3))]
    folder = image_folder(2, img=(Image(), shapes))
    dataset = load_images(folder, image_size=5)
    assert dataset.images.shape == (2, 3, 5, 5)
    assert dataset.images[0].unique().tolist() == [99]
    assert dataset.images[1, :, 2, 2].tolist() == [1, 2, 3]
    assert dataset.preprocessing.image_size == 5
    with pytest.raises(DataError, match="image 0 has 20 x 10 pixels, image 1 has 12 x 16\nhint: `image_size`"):
        load_images(folder)


def test_the_middle_is_kept_after_resizing() -> None:
    """A ramp of 8 columns resized to twice the size and cut to 8 keeps columns 2 to 5."""
    from PIL import Image

    ramp = np.tile(np.arange(8, dtype=np.uint8)[None, :, None] * 10, (8, 1, 3))
    cut = Preprocessing(image_size=8, resize=16, resample=0).resized(Image.fromarray(ramp))
    assert np.asarray(cut)[0, :, 0].tolist() == [20, 20, 30, 30, 40, 40, 50, 50]


def test_a_models_own_preprocessing_is_read(tmp_path: Path) -> None:
    """Saved by transformers for ConvNeXt: 224 of 256 pixels, its mean and deviation; others without crop."""

    def read(**changed: Any) -> Preprocessing:
        settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3, **changed}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        return preprocessing_of(tmp_path)

    convnext = read(size={"shortest_edge": 224}, crop_pct=0.875)
    assert convnext == Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), image_size=224, resize=256, resample=3)
    mobile = read(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, do_center_crop=True)
    assert (mobile.image_size, mobile.resize) == (224, 256)
    assert read(size={"height": 32, "width": 32}).image_size == 32
    assert read(size=32, do_resize=False).image_size is None
    with pytest.raises(DataError, match="does not scale pixels by 1 / 255"):
        read(rescale_factor=1 / 127.5)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no image processor in .*\nhint: save one there"):
        preprocessing_of(tmp_path)


@pytest.mark.parametrize("kind", ["ConvNextImageProcessorPil", "BitImageProcessorPil", "ViTImageProcessorPil"])
def test_images_come_out_as_from_the_models_own_processor(kind: str, tmp_path: Path) -> None:
    """The oracle is transformers: shares of a square, crops, and squashing, on images that are not square."""
    import transformers
    from PIL import Image

    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 255, (30, 47, 3), dtype=np.uint8)).resize((320, 299))
    processor = getattr(transformers, kind)()
    processor.save_pretrained(tmp_path)
    preprocessing = preprocessing_of(tmp_path)
    if preprocessing.image_size == 384:  # ConvNeXt's default crops nothing
        processor.size = {"shortest_edge": 224}
        processor.save_pretrained(tmp_path)
        preprocessing = preprocessing_of(tmp_path)
    expected = processor(image, return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(np.array(preprocessing.resized(image))).permute(2, 0, 1)[None]
    torch.testing.assert_close(preprocessing.normalise(pixels), expected, atol=1e-6, rtol=0)


def test_calibration_images_depend_on_the_seed_alone(colours: ImageDataset) -> None:
    """Without replacement, the same whatever the batch size, and normalised."""
    batches = calibration_batches(colours, 20, seed=1, batch_size=8)
    assert [len(batch) for batch in batches] == [8, 8, 4]
    together = torch.cat(batches)
    assert torch.equal(together, torch.cat(calibration_batches(colours, 20, seed=1, batch_size=3)))
    assert not torch.equal(together, torch.cat(calibration_batches(colours, 20, seed=2, batch_size=8)))
    assert len(together.unique(dim=0)) == 20
    everything = colours.normalised(slice(None))
    assert all((everything == image).all((1, 2, 3)).any() for image in together)


def test_what_is_held_out_is_not_in_the_rest(colours: ImageDataset) -> None:
    """Every image lands in one of the two parts."""
    rest, held = hold_out(colours, 10, seed=0)
    assert (len(rest), len(held)) == (38, 10)
    assert len(torch.cat([rest.images, held.images]).unique(dim=0)) == 48
    assert torch.equal(held.images, hold_out(colours, 10, seed=0)[1].images)


@pytest.mark.parametrize("wrapped", [False, True])
def test_scores_by_hand(colours: ImageDataset, wrapped: bool) -> None:
    """All right; with the sign turned none is; three wrong labels of 48; the loss is torch's over all at once."""
    model = Brightest(10.0, wrapped).train()
    scores = score_images(model, colours, batch_size=7)
    assert (scores["accuracy"], scores["n"]) == (1.0, 48)
    assert model.training
    with torch.no_grad():
        output = model(colours.normalised(slice(None)))
    expected = nn.functional.cross_entropy(output.logits if wrapped else output, colours.labels)
    assert scores["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert score_images(Brightest(-10.0, wrapped), colours)["accuracy"] == 0
    wrong = colours.labels.clone()
    wrong[:3] = (wrong[:3] + 1) % 3
    assert score_images(model, dataclasses.replace(colours, labels=wrong))["accuracy"] == 45 / 48
    json.dumps(scores)


def test_cifar_has_ten_classes_of_small_images(data_root: Path) -> None:
    """The twin on real data of the tests above."""
    dataset = load_images(data_root / "data" / "cifar10", "test", max_examples=50)
    assert dataset.images.shape == (50, 3, 32, 32)
    assert len(dataset.classes) == 10
    assert dataset.labels.unique().numel() > 5


def test_settings_out_of_range_are_refused(colours: ImageDataset, image_folder: Callable[..., Path]) -> None:
    """Name, value and limit."""
    with pytest.raises(RecipeError, match="`count` is 49 calibration images\nhint: from 1 to the 48"):
        calibration_batches(colours, 49)
    with pytest.raises(RecipeError, match="`count` is 0 calibration"):
        calibration_batches(colours, 0)
    with pytest.raises(RecipeError, match="`batch_size` is 0"):
        calibration_batches(colours, 4, batch_size=0)
    with pytest.raises(RecipeError, match="`batch_size` is 0"):
        score_images(Brightest(), colours, batch_size=0)
    with pytest.raises(RecipeError, match="`count` is 48\nhint: from 1 to 47"):
        hold_out(colours, 48)
    with pytest.raises(RecipeError, match="`image_size` is 0"):
        load_images(image_folder(3), image_size=0)
    with pytest.raises(RecipeError, match="`max_examples` is -1"):
        load_images(image_folder(3), max_examples=-1)
    with pytest.raises(RecipeError, match=r"`mean` is \(0\.5,\)\nhint: three numbers"):
        Preprocessing(mean=(0.5,))
    with pytest.raises(RecipeError, match=r"`deviation` is .*\nhint: three numbers above 0"):
        Preprocessing(deviation=(1.0, 0.0, 1.0))


def test_data_that_are_no_images_to_classify_are_refused(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    """No or several columns of a kind, no rows, no such split, no folder, hidden labels, bytes that are no image."""
    from datasets import ClassLabel, Image, Value
    from tests.tiny import image_rows

    with pytest.raises(DataError, match=r"no column of kind Image among 'label' \(ClassLabel\)\nhint: exactly one"):
        load_images(image_folder(3, img=(None, [])))
    with pytest.raises(DataError, match=r"2 columns of kind Image among 'img' \(Image\), .*'mask' \(Image\)"):
        load_images(image_folder(3, mask=(Image(), image_rows(3, 0)["img"])))
    with pytest.raises(DataError, match=r"no column of kind ClassLabel among .*'label' \(Value\)"):
        load_images(image_folder(3, label=(Value("int64"), [0, 1, 2])))
    with pytest.raises(DataError, match=r"cannot be read as data set: .* no data"):
        load_images(image_folder(0))
    with pytest.raises(DataError, match=r"no split 'test'\nhint: one of train"):
        load_images(image_folder(3), "test")
    with pytest.raises(ModelNotFoundError, match="no folder"):
        load_images(tmp_path / "absent")
    with pytest.raises(DataError, match="2 labels are none of the 3 classes, the first -1 in row 1"):
        load_images(image_folder(3, label=(ClassLabel(names=["a", "b", "c"]), [0, -1, None])))
    png = io.BytesIO()
    image_rows(1, 0)["img"][0].save(png, "PNG")
    cells = [{"bytes": png.getvalue(), "path": None}, {"bytes": b"no image", "path": None}]
    with pytest.raises(DataError, match=r"image 1 cannot be decoded: .*\nhint: leave this row out"):
        load_images(image_folder(2, img=(Image(), cells)))
    with pytest.raises(DataError, match="image 0 cannot be decoded"):
        load_images(image_folder(1, img=(Image(), [None])))


def test_a_split_without_rows_is_refused(image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every reader stops at it by itself."""
    import datasets

    empty = datasets.load_dataset(str(image_folder(3)))["train"].select([])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": empty})
    with pytest.raises(DataError, match=r"split 'train' of .* has no rows"):
        load_images(image_folder(3))


def test_models_that_do_not_fit_are_refused(colours: ImageDataset) -> None:
    """Images of the wrong size, logits of the wrong shape or none, NaN; the mode is kept even then."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)).train()
    with pytest.raises(DataError, match=r"Sequential does not take images of shape \[48, 3, 8, 8\]: .*\nhint: `image"):
        score_images(flat, colours)
    assert flat.training
    ten = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    with pytest.raises(DataError, match=r"gives \[48, 10\] for 48 images of 3 classes\nhint: logits of shape"):
        score_images(ten, colours)
    broken = Brightest(float("nan"))
    with pytest.raises(DataError, match="logits of images 0 to 7 are NaN\nhint"):
        score_images(broken, colours, batch_size=8)

    class Listed(Brightest):
        def forward(self, images: Tensor) -> Any:
            return [super().forward(images)]

    with pytest.raises(DataError, match="Listed gives list for 48 images"):
        score_images(Listed(), colours)
