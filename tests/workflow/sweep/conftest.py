"""A tiny model, tasks of a few sentences, and a function that writes a grid over them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.evaluate.conftest import README, _datasets_cache, rows_of
from tests.tiny import save_tiny_folder

__all__ = ["_datasets_cache"]

TASKS = {"sst2": 32, "stsb": 24}


def write_tasks(folder: Path, tasks: dict[str, int]) -> None:
    """Write GLUE tasks of some rows into one folder, as the hub has them."""
    from datasets import Dataset

    listed = []
    for task, n in tasks.items():
        (folder / task).mkdir(parents=True)
        for seed, split in enumerate(("train", "validation")):
            with (folder / task / f"{split}.parquet").open("wb") as file:
                Dataset.from_dict(rows_of(task, n, seed)).to_parquet(file)
        text = README.format(task=task, kind="parquet", validation="validation").replace("path: ", f"path: {task}/")
        listed.append(text.removeprefix("---\nconfigs:\n").removesuffix("---\n"))
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(listed) + "---\n")


@pytest.fixture(scope="session")
def sweep_parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the settings of a grid of one model and one task that takes a second a cell."""
    folder = tmp_path_factory.mktemp("sweep_parts")
    save_tiny_folder(folder / "model", "distilbert")
    write_tasks(folder / "glue", TASKS)
    return {
        "models": [str(folder / "model")],
        "data": str(folder / "glue"),
        "tasks": ["sst2"],
        "methods": ["none", "svd"],
        "rates": [0.4],
        "seeds": [0],
        "max_steps": [2],
        "parent": {"max_steps": 4},
        "training": {"batch_size": 8, "learning_rate": 1e-3},
    }


@pytest.fixture
def write_grid(tmp_path: Path, sweep_parts: dict[str, Any]) -> Callable[..., Path]:
    """Return a function that writes that grid with changes and returns the file."""
    import yaml

    def write(**change: Any) -> Path:
        parts = {name: value for name, value in {**sweep_parts, **change}.items() if value is not None}
        file = tmp_path / "grid.yaml"
        file.write_text(yaml.safe_dump(parts, sort_keys=False))
        return file

    return write
