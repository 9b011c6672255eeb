"""Sweeps whose learning rates are chosen, whose rows are weighted, whose cells learn from their parent; details."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import foldflat
from foldflat.errors import RecipeError
from foldflat.evaluate import glue_task, load_classifier, load_split, load_tokenizer
from foldflat.workflow.sweep import read_grid, run_sweep, work
from foldflat.workflow.sweep.details import table_details
from foldflat.workflow.sweep.jobs import cells_of
from foldflat.workflow.sweep.schedule import _Open

pytestmark = pytest.mark.xdist_group("sweep")

WriteGrid = Callable[..., Path]
TRIALS = {"batch_size": 8, "learning_rate": [1e-9, 3e-3], "trial_steps": 4, "hold_out": 0.25}


def test_every_method_has_trials_of_its_own(write_grid: WriteGrid, tmp_path: Path) -> None:
    """One choice for the parents and one for each method and rate, of all seeds; what was chosen is trained with."""
    grid = {"seeds": [0, 1], "max_steps": [0, 2], "training": TRIALS, "parent": {"max_steps": 4}}
    found = run_sweep(write_grid(**grid), tmp_path / "results")
    assert found.failed == []
    assert found.computed == 8 + 2 + 3
    cells = [json.loads(file.read_text()) for file in (tmp_path / "results" / "cells").iterdir()]
    choices = {cell["key"]: cell for cell in cells if "learning_rates" in cell["settings"]}
    assert sorted(choice["settings"]["trial_of"] for choice in choices.values()) == ["cell", "cell", "parent"]
    for choice in choices.values():
        assert [trial["learning_rate"] for trial in choice["figures"]["trials"]] == [1e-9, 3e-3]
        assert choice["settings"]["training"]["max_steps"] == 4
    trained = [cell for cell in cells if cell["settings"].get("learning_rate_of") and "score" in cell["figures"]]
    trained = [cell for cell in trained if cell["settings"]["training"]]
    assert len(trained) == 4
    for cell in trained:
        chosen = choices[cell["settings"]["learning_rate_of"]]["figures"]["learning_rate"]
        assert cell["figures"]["learning_rate"] == chosen
        assert cell["figures"]["held_out"]["rows"] == 8
    assert {row["learning_rate"] for row in found.cells if row["max_steps"] == 0} == {None}
    assert run_sweep(write_grid(**grid), tmp_path / "results").computed == 0


def test_one_rate_has_no_trials(write_grid: WriteGrid, tmp_path: Path) -> None:
    """Nothing is there to choose; the parent's own rate replaces the list."""
    training = {**TRIALS, "learning_rate": [3e-3]}
    found = run_sweep(write_grid(training=training), tmp_path / "results")
    assert found.computed == 3
    parent = {"max_steps": 4, "learning_rate": 1e-3}
    found = run_sweep(write_grid(training=TRIALS, parent=parent), tmp_path / "other")
    assert found.computed == 5


def test_weighted_methods_weigh_rows_by_the_training_texts(
    write_grid: WriteGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts are those of the tokens that are trained on; the error on frequent tokens falls, on others it rises."""
    given: dict[str, Any] = {}

    def spy(model: Any, recipe: Any, calibration: Any = None) -> Any:
        given[str(recipe.row_weights)] = calibration
        return compress(model, recipe, calibration)

    compress = work.compress
    monkeypatch.setattr(work, "compress", spy)
    grid = write_grid(methods=["svd", "svd-weighted"], max_steps=[0])
    found = run_sweep(grid, tmp_path / "results")
    assert found.failed == []
    assert given["None"] is None
    parts = read_grid(grid)
    rows = load_split(parts.data, "sst2", "train", tokenizer=load_tokenizer(parts.models[0]))
    counts = torch.zeros(len(given["auto"].counts), dtype=torch.int64)
    for ids in rows["input_ids"]:
        counts += torch.bincount(torch.tensor(ids), minlength=len(counts))
    assert torch.equal(given["auto"].counts, counts)
    plain, weighted = ({band["low"]: band for band in row["details"]["bands"]} for row in found.cells)
    assert weighted[100]["energy_lost"] < plain[100]["energy_lost"]
    assert weighted[0]["energy_lost"] > plain[0]["energy_lost"]


def test_mixed_methods_are_given_bytes(write_grid: WriteGrid, tmp_path: Path) -> None:
    """58 % of the table's bytes, and never more; other methods go by their parameters."""
    methods = ["svd", "mixed", "mixed-weighted"]
    found = run_sweep(write_grid(methods=methods, byte_rates=[0.42], max_steps=[0]), tmp_path / "results")
    assert found.failed == []
    rates = {row["method"]: row["rate"] for row in found.cells}
    assert rates == {"svd": 0.4, "mixed": 0.42, "mixed-weighted": 0.42}
    for row in found.cells:
        share = row["table"]["size_bytes_after"] / row["table"]["size_bytes_before"]
        assert 0.5 < share < 0.7 if row["method"] == "svd" else 0.5 < share <= 0.58


def test_cells_of_one_compression_share_it(
    write_grid: WriteGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lengths and the trials of a rate: one search for each method; what is trained is a copy."""
    made: list[str] = []
    compress = work.compress

    def spy(model: Any, recipe: Any, calibration: Any = None) -> Any:
        made.append(recipe.method)
        return compress(model, recipe, calibration)

    monkeypatch.setattr(work, "compress", spy)
    grid = {"methods": ["svd", "int8"], "max_steps": [4, 0, 2], "training": TRIALS, "parent": {"max_steps": 4}}
    found = run_sweep(write_grid(**grid), tmp_path / "results")
    assert found.failed == []
    assert made == ["svd", "int8"]
    alone = run_sweep(write_grid(**{**grid, "max_steps": [0]}), tmp_path / "alone")
    assert alone.cells == [row for row in found.cells if row["max_steps"] == 0]


def test_places_keep_to_a_compression_and_off_that_of_others(write_grid: WriteGrid) -> None:
    """Each takes all of its own before another; a second place begins with what the first does not hold."""
    cells = cells_of(read_grid(write_grid(methods=["svd", "int8"], max_steps=[0, 1, 2])))
    jobs = {cell.job.key: cell.job for cell in cells}
    left = _Open(jobs, {job.needs[0].key for job in jobs.values()})
    first, second = object(), object()
    taken = [left.next(place) for place in (first, second, first, second, first, second)]  # type: ignore[arg-type]
    assert left.next(first) is None  # type: ignore[arg-type]
    assert [job.settings["method"] for job in taken if job] == ["svd", "int8"] * 3


def test_cells_learn_from_their_parent_where_asked(
    write_grid: WriteGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher has the parent's weights, for `none` and the others; without `teacher` there is none."""
    teachers: list[Any] = []
    finetune = work.finetune_classifier

    def spy(model: Any, *arguments: Any, **named: Any) -> Any:
        if "teacher" in named:
            teachers.append(named["teacher"])
        return finetune(model, *arguments, **named)

    monkeypatch.setattr(work, "finetune_classifier", spy)
    results = tmp_path / "results"
    run_sweep(write_grid(training={"batch_size": 8, "teacher": True, "teacher_weight": 0.5}), results)
    (folder,) = (results / "parents").iterdir()
    parent = load_classifier(folder, glue_task("sst2"), tokenizer=load_tokenizer(folder), new_head=False)
    assert len(teachers) == 2
    for teacher in teachers:
        assert all(torch.equal(tensor, parent.state_dict()[name]) for name, tensor in teacher.state_dict().items())
    run_sweep(write_grid(), results)
    assert teachers[2:] == [None, None]


def test_details_account_for_every_byte_and_token(write_grid: WriteGrid, tmp_path: Path) -> None:
    """Parts sum to the model, what is stored to the table, bands and subspaces hold every token once."""
    found = run_sweep(write_grid(methods=["paper-3", "int8"], max_steps=[0]), tmp_path / "results")
    integers, paper = found.cells
    for row in (integers, paper):
        parts, table = row["details"]["parts"], row["table"]
        assert sum(part["before"] for part in parts) == table["model_size_bytes_before"]
        assert sum(part["after"] for part in parts) == table["model_size_bytes_after"]
        assert sum(row["details"]["stored"].values()) == table["size_bytes_after"]
        assert sum(band["tokens"] for band in row["details"]["bands"]) == 120
        assert sum(band["share"] for band in row["details"]["bands"]) == pytest.approx(1)
        assert all(0 <= band["energy_lost"] < 1 and 0 < band["cosine"] <= 1 for band in row["details"]["bands"])
    assert integers["details"]["subspaces"] == []
    subspaces = paper["details"]["subspaces"]
    assert sum(space["rows"] for space in subspaces) in (119, 120)  # the padding row is in none
    assert [space["share"] for space in subspaces] == sorted((space["share"] for space in subspaces), reverse=True)
    assert all(len(set(space["tokens"])) == min(12, space["rows"]) for space in subspaces)


def test_a_tied_table_is_a_part_once() -> None:
    """Its two names stand for the same bytes."""
    model = torch.nn.ModuleDict({"words": torch.nn.Embedding(6, 4), "head": torch.nn.Linear(4, 6, bias=False)})
    model["head"].weight = model["words"].weight
    layer = foldflat.SubspaceEmbedding(6, 4, [6], [2])
    layer.requires_grad_(False)
    small = torch.nn.ModuleDict({"words": layer})
    details = table_details(model, small, "words", list("abcdef"), torch.ones(6, dtype=torch.int64))
    assert details["parts"] == [{"part": "words", "before": 96, "after": 4 * (12 + 8) + 6}]
    assert details["stored"] == {"coefficients": 48, "bases": 32, "assignment": 6}


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"learning_rate": [1e-3, 1e-4]}, r"`training` has 2 learning rates .* no `trial_steps`"),
        ({"learning_rate": [1e-3, 1e-4], "trial_steps": 5}, "no `hold_out`"),
        ({"learning_rate": [1e-3, -1]}, "`learning_rate` is -1"),
        ({"learning_rate": []}, "`learning_rate` is empty"),
        ({"trial_steps": 0}, "`trial_steps` is 0"),
        ({"patience": 2}, "`patience` is 2\nhint: it needs `hold_out`"),
        ({"teacher": 1}, "neither true nor false"),
    ],
)
def test_stages_that_are_malformed_are_said(write_grid: WriteGrid, training: dict[str, Any], message: str) -> None:
    """With file and line."""
    with pytest.raises(Exception, match=rf"grid\.yaml, line [0-9]+: (.|\n)*{message}"):
        read_grid(write_grid(training=training))


def test_no_cell_is_judged_by_rows_that_its_parent_was_trained_on(write_grid: WriteGrid) -> None:
    """A parent holds out as much as its cells do, or more: those of a smaller share are among those of a larger."""
    parent = {"max_steps": 4, "hold_out": 0.1}
    with pytest.raises(
        RecipeError, match=r"line [0-9]+: `parent` holds out 0\.1 of .* and `training` 0\.25(.|\n)*hint"
    ):
        read_grid(write_grid(training=TRIALS, parent=parent))
    assert read_grid(write_grid(training=TRIALS, parent={**parent, "hold_out": 0.3})).parent.settings.hold_out == 0.3


def test_a_parent_that_was_made_anew_is_read_anew(write_grid: WriteGrid, tmp_path: Path) -> None:
    """In the same process too, though cells keep the model that the one before them began with."""
    from safetensors.torch import load_file, save_file

    grid, results = write_grid(methods=["none"], tasks=["stsb"], max_steps=[0]), tmp_path / "results"
    before = run_sweep(grid, results).cells[0]["score"]["headline"]["value"]
    (parent,) = (results / "parents").iterdir()
    weights = load_file(parent / "model.safetensors")
    weights["classifier.weight"] *= -1
    save_file(weights, parent / "model.safetensors", metadata={"format": "pt"})
    (results / "parents" / ".new").write_bytes((parent / "parent.json").read_bytes())
    (results / "parents" / ".new").rename(parent / "parent.json")
    for cell in (results / "cells").iterdir():
        cell.unlink()
    assert run_sweep(grid, results).cells[0]["score"]["headline"]["value"] == pytest.approx(-before)


def test_a_model_that_changes_during_its_trials_has_no_learning_rate(
    write_grid: WriteGrid, sweep_parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice would be kept under the weights that it had, and taken for them by the next sweep."""
    model = shutil.copytree(sweep_parts["models"][0], tmp_path / "model")
    choose = work.choose_learning_rate

    def change(*arguments: Any, **named: Any) -> Any:
        (model / "config.json").write_text((model / "config.json").read_text() + "\n")
        return choose(*arguments, **named)

    monkeypatch.setattr(work, "choose_learning_rate", change)
    grid = {"models": [str(model)], "methods": ["none"], "parent": {**TRIALS, "max_steps": 4}}
    found = run_sweep(write_grid(**grid), tmp_path / "results")
    assert "has changed since the sweep began" in found.failed[0]["error"]["message"]
    assert list((tmp_path / "results" / "cells").iterdir()) == []


def test_the_settings_of_trials_are_part_of_the_key(write_grid: WriteGrid) -> None:
    """Other candidates, other steps, another first seed: other cells; a further seed leaves the first one's."""

    def keys(**change: Any) -> list[str]:
        own = {**TRIALS, **change.pop("training", {})}
        return [cell.job.key for cell in cells_of(read_grid(write_grid(methods=["none"], training=own, **change)))]

    (before,) = keys()
    assert keys(training={"learning_rate": [3e-3, 1e-9]}) != [before]
    assert keys(training={"trial_steps": 5}) != [before]
    assert keys(training={"teacher": True}) != [before]
    assert keys(seeds=[0, 1])[0] == before
    assert keys(seeds=[1, 0])[1] != before
    settings = cells_of(read_grid(write_grid(training=TRIALS)))[0].job
    assert dataclasses.replace(settings, model="elsewhere", data="there").key == settings.key


def test_parents_are_shared_whatever_a_teacher_weighs(write_grid: WriteGrid) -> None:
    """They have none: another weight or temperature makes other cells, of the same parents."""

    def jobs(**training: Any) -> tuple[str, str]:
        own = {"batch_size": 8, "teacher": True, **training}
        (cell,) = cells_of(read_grid(write_grid(methods=["none"], training=own)))
        return cell.job.key, cell.job.needs[0].key

    cell, parent = jobs()
    for change in ({"teacher_weight": 0.7}, {"temperature": 4.0}):
        other, same = jobs(**change)
        assert (other != cell, same) == (True, parent)
    with pytest.raises(RecipeError, match="unknown key `temperature` in `parent`"):
        read_grid(write_grid(parent={"max_steps": 4, "temperature": 4.0}))
