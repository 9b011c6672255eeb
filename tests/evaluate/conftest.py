"""A small GLUE in the hub's schema, a small masked language model, and a cache that goes away."""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import image_rows, save_tiny_folder, tiny_tokenizer

from foldflat.evaluate import GLUE_TASKS

README = """---
configs:
- config_name: {task}
  data_files:
  - split: train
    path: train.{kind}
  - split: {validation}
    path: validation.{kind}
---
"""
WORDS = (("bafo", "dine", "kulo"), ("rute", "siga", "zebi"), ("momo", "pida", "tola"))


def rows_of(task: str, n: int, seed: int) -> dict[str, list[Any]]:
    """Draw `n` rows whose label is the set that most of the words come from; a similarity is 0 or 5."""
    glue = GLUE_TASKS[task]
    draw = random.Random(seed)
    classes = [index % max(2, glue.num_labels) for index in range(n)]
    rows: dict[str, list[Any]] = {
        column: [" ".join(draw.choices(WORDS[kind], k=draw.randint(2, 12))) for kind in classes]
        for column in glue.text_columns
    }
    return rows | {"label": classes if glue.labels else [5.0 * kind for kind in classes]}


@pytest.fixture(autouse=True, scope="session")
def _datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let `datasets` cache where pytest cleans up."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="session")
def glue_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes one task, with `change` made to its rows, and returns the folder."""
    from datasets import ClassLabel, Dataset

    def write(task: str, *, kind: str = "parquet", n: int = 64, named: bool = False, **change: list[Any]) -> Path:
        folder = tmp_path_factory.mktemp(task)
        validation = "validation_matched" if task == "mnli" else "validation"
        (folder / "README.md").write_text(README.format(task=task, kind=kind, validation=validation))
        for seed, split in enumerate(("train", "validation")):
            data = Dataset.from_dict(rows_of(task, n, seed) | change)
            if named:
                data = data.cast_column("label", ClassLabel(names=list(GLUE_TASKS[task].labels)))
            with (folder / f"{split}.{kind}").open("wb") as file:
                data.to_parquet(file) if kind == "parquet" else data.to_csv(file)
        return folder

    return write


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes one split as the hub has it, with `change` made to its columns, by name."""
    from datasets import ClassLabel, Dataset, Features, Image

    def write(n: int = 48, side: int = 8, *, split: str = "train", **change: tuple[Any, list[Any]]) -> Path:
        folder = tmp_path_factory.mktemp("images")
        kinds = {"img": Image(), "label": ClassLabel(names=["red", "green", "blue"])}
        features = Features(kinds | {name: kind for name, (kind, _) in change.items() if kind is not None})
        rows = image_rows(n, 0, side) | {name: values for name, (_, values) in change.items()}
        for name in [name for name, (kind, _) in change.items() if kind is None]:
            del features[name], rows[name]
        with (folder / f"{split}.parquet").open("wb") as file:
            Dataset.from_dict(rows, features=features).to_parquet(file)
        return folder

    return write


@pytest.fixture(scope="session")
def colours(image_folder: Callable[..., Path]) -> Any:
    """Return a learnable task of 48 images of 8 x 8 pixels and three classes, in memory."""
    from foldflat.evaluate import load_images

    return load_images(image_folder())


@pytest.fixture(scope="session")
def sst2(glue_folder: Callable[..., Path]) -> Path:
    """Return a folder with a learnable task of 64 training and 64 validation sentences."""
    return glue_folder("sst2", named=True)


@pytest.fixture(scope="session")
def masked_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a DistilBERT of two layers, 120 tokens and no classification head."""
    folder = tmp_path_factory.mktemp("masked_lm")
    save_tiny_folder(folder, "distilbert")
    return folder


@pytest.fixture
def tokenizer() -> Any:
    """Return the tokenizer of `masked_lm`, new to each test because tests change it."""
    return tiny_tokenizer()


@pytest.fixture
def reports() -> Iterator[list[str]]:
    """Collect what transformers logs."""
    import logging

    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("transformers"), Collector()
    logger.addHandler(handler)
    with contextlib.closing(handler):
        yield messages
    logger.removeHandler(handler)
