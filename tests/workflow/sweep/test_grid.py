"""Grids: what is read, and errors that name the line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foldflat.errors import DataError, FoldflatError, ModelNotFoundError, RecipeError
from foldflat.workflow.sweep import read_grid
from foldflat.workflow.sweep.jobs import cells_of

GRID = """\
models: [m]
data: d
tasks:
  - cola
  - rte
methods: [none, svd, paper-3, paper]
rates: [0.4, 6e-1]
seeds: [0, 7]
epochs: [0, 2]
parent:
  max_steps: 9
training: {learning_rate: 2e-4, bf16: true}
"""


def read(tmp_path: Path, text: str) -> Any:
    """Read a grid from text."""
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    return read_grid(file)


def test_a_grid_is_what_the_file_says(tmp_path: Path) -> None:
    """Settings of training hold for parents too, unless these have their own; 2e-4 is a number."""
    grid = read(tmp_path, GRID)
    assert (grid.models, grid.data, grid.tasks, grid.seeds) == (("m",), "d", ("cola", "rte"), (0, 7))
    assert (grid.methods, grid.rates) == (("none", "svd", "paper-3", "paper"), (0.4, 0.6))
    assert (grid.unit, grid.lengths) == ("epochs", (0, 2))
    assert (grid.parent.settings.max_steps, grid.parent.learning_rates, grid.parent.settings.bf16) == (9, (2e-4,), True)
    assert (grid.training.settings.max_steps, grid.training.settings.learning_rate) == (-1, 2e-4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds:", "seed:", "line 8: unknown key `seed` in the grid"),
        ("seeds: [0, 7]", "tasks: [rte]", "line 8: `tasks` stands in line 3 already"),
        ("seeds: [0, 7]\n", "", "line 1: the grid has no `seeds`"),
        ("[0, 7]", "7", "line 8: `seeds` is not a list"),
        ("[0, 7]", "[]", "line 8: `seeds` is empty"),
        ("[0, 7]", "[0, 0]", "line 8: 0 stands twice in `seeds`"),
        ("[0, 7]", "[0, -1]", "line 8: `seed` is -1"),
        ("[0, 7]", "[0, 0.5]", "line 8: an item of `seeds` is '0.5', not a whole number"),
        ("  - rte", "  - rtf", "line 5: unknown task 'rtf'"),
        ("  - rte", "  - 5", "line 5: an item of `tasks` is '5', not a text"),
        ("paper-3", "paper-1", "line 6: unknown method 'paper-1'"),
        ("0.4", "40", r"line 7: the rate 40 is outside \(0, 1\)"),
        ("0.4", "most", "line 7: an item of `rates` is 'most', not a number"),
        ("rates: [0.4, 6e-1]\n", "", "line 6: 'svd' needs `rates`"),
        ("paper-3", "mixed", "line 6: 'mixed' needs `byte_rates`"),
        ("[0, 2]", "[-1]", "line 9: epochs of -1"),
        ("epochs: [0, 2]\n", "", "neither `epochs` nor `max_steps`"),
        ("epochs: [0, 2]", "epochs: [0]\nmax_steps: [0]", "both `epochs` and `max_steps`"),
        ("max_steps: 9", "max_steps: 9\n  epochs: 3", "line 11: `parent` has both"),
        ("max_steps: 9", "max_step: 9", "line 11: unknown key `max_step` in `parent`"),
        ("2e-4", "-2e-4", "line 12: `learning_rate` is -0.0002"),
        ("bf16: true", "bf16: 1", "line 12: `bf16` is '1', neither true nor false"),
        ("bf16", "epochs: 3, bf16", "line 12: unknown key `epochs` in `training`"),
        ("data: d", "data: [d", "line 3: not YAML"),
        ("data: d", "data:", "line 2: `data` is '', not a text"),
        (GRID, "[1]", "line 1: the grid is a sequence"),
        (GRID, "", "is empty"),
    ],
)
def test_what_is_malformed_is_said_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    """File, line, what stands there, and what to write."""
    assert GRID.count(old) >= 1
    with pytest.raises(RecipeError, match=rf"grid\.yaml.*{message}(.|\n)*hint: "):
        read(tmp_path, GRID.replace(old, new, 1))


def test_a_grid_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Before anything else."""
    with pytest.raises(ModelNotFoundError, match=r"no grid in .*nowhere\.yaml"):
        read_grid(tmp_path / "nowhere.yaml")


def test_models_and_data_are_looked_at_before_anything_is_computed(
    write_grid: Callable[..., Path], sweep_parts: dict[str, Any], tmp_path: Path
) -> None:
    """A model without a tokenizer, a task without its data, without a split, with hidden labels: each with its line."""
    from datasets import Dataset
    from tests.tiny import tiny_model

    def fails(kind: type[FoldflatError], message: str, **change: Any) -> None:
        with pytest.raises(kind, match=rf"grid\.yaml, line {message}"):
            cells_of(read_grid(write_grid(**change)))

    tiny_model("distilbert").save_pretrained(tmp_path / "model")
    fails(DataError, "2: .*has no tokenizer", models=[str(tmp_path / "model")])
    fails(ModelNotFoundError, "3: .*no folder", models=[*sweep_parts["models"], str(tmp_path / "nowhere")])
    fails(DataError, "6: .*cola", tasks=["sst2", "cola"])
    texts = {"sentence": ["bafo"] * 4}
    for name, columns in (("unlabelled", texts), ("hidden", {**texts, "label": [-1] * 4})):
        (tmp_path / name).mkdir()
        files = "".join(f"  - split: {split}\n    path: rows.parquet\n" for split in ("train", "validation"))
        readme = f"---\nconfigs:\n- config_name: sst2\n  data_files:\n{files}---\n"
        (tmp_path / name / "README.md").write_text(readme)
        Dataset.from_dict(columns).to_parquet(str(tmp_path / name / "rows.parquet"))
    fails(DataError, "5: no column 'label'", data=str(tmp_path / "unlabelled"))
    fails(DataError, "5: every label is -1", data=str(tmp_path / "hidden"))
    train = files[: files.index("  - split: validation")]
    (tmp_path / "hidden" / "README.md").write_text(readme.replace(train, ""))
    fails(DataError, "5: .*has no split 'train'", data=str(tmp_path / "hidden"))


def test_a_cell_is_known_by_what_decides_its_figures(
    write_grid: Callable[..., Path], sweep_parts: dict[str, Any], tmp_path: Path
) -> None:
    """Another place of the model gives the same keys; another weight, tokenizer, text or setting gives others."""
    import shutil

    from foldflat.evaluate import data_fingerprint, model_fingerprint

    def keys(**change: Any) -> list[str]:
        return [cell.job.key for cell in cells_of(read_grid(write_grid(**change)))]

    before, copy = keys(), tmp_path / "copy"
    shutil.copytree(sweep_parts["models"][0], copy)
    assert keys(models=[str(copy)]) == before
    assert not set(keys(training={"batch_size": 9})) & set(before)
    none, svd = keys(rates=[0.5])
    assert none == before[0]
    assert svd != before[1]
    (copy / "README.md").write_text("a card")
    assert keys(models=[str(copy)]) == before
    sst2 = data_fingerprint(sweep_parts["data"], "sst2")
    assert data_fingerprint(sweep_parts["data"], "stsb") != sst2
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        fingerprint = model_fingerprint(copy)
        text = (copy / name).read_bytes()
        (copy / name).write_bytes(text + b"\n" if name.endswith("json") else text[:-1] + bytes([text[-1] ^ 1]))
        assert model_fingerprint(copy) != fingerprint, name


def test_a_model_of_the_hub_is_known_by_its_commit(
    write_grid: Callable[..., Path], sweep_parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is resolved in the cache as transformers does it."""
    import shutil

    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--owner--tiny"
    shutil.copytree(sweep_parts["models"][0], cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cells = cells_of(read_grid(write_grid(models=["owner/tiny"])))
    assert {cell.job.settings["model"] for cell in cells} == {f"commit {commit}"}
