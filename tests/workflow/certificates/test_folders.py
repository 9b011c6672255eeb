"""Certificates of folders: what is promised, what it costs to ask again, what is refused, what edits undo."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from safetensors.torch import load_file, save_file
from tests.evaluate.conftest import _datasets_cache, glue_folder, masked_lm
from tests.workflow.certificates.made_up import uses
from typer.testing import CliRunner

from foldflat.certify import accuracy_drop, examples_needed
from foldflat.cli import app
from foldflat.errors import CheckpointError, DataError, ModelNotFoundError, RecipeError
from foldflat.evaluate import glue_task, load_classifier, load_split, load_tokenizer, predict_logits
from foldflat.model.manifest import refresh_checksums
from foldflat.workflow.certificates import Promise, TaskData, certificate_of, certify_folder

__all__ = ["_datasets_cache", "glue_folder", "masked_lm"]

pytestmark = pytest.mark.xdist_group("certifying")


def run(*arguments: object) -> Result:
    """Run a command as a user would type it."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(glue_folder: Callable[..., Path]) -> Path:
    """Return a task of 300 sentences."""
    return glue_folder("sst2", n=300, named=True)


@pytest.fixture(scope="module")
def folders(masked_lm: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a classifier, and one whose table is compressed."""
    root = tmp_path_factory.mktemp("certifying")
    options = ("--task", "sst2", "--data", data, "--max-steps", 40, "--learning-rate", 3e-3, "--json")
    assert run("finetune", masked_lm, *options, "-o", root / "original").exit_code == 0
    assert run("compress", root / "original", "--keep", 0.8, "--json", "-o", root / "small").exit_code == 0
    return root


@pytest.fixture
def small(folders: Path, tmp_path: Path) -> Path:
    """Return a copy of the compressed folder."""
    return shutil.copytree(folders / "small", tmp_path / "small")


@pytest.fixture
def certified(folders: Path, data: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that certifies a folder, with a ledger of its own."""

    def call(folder: Path, **change: Any) -> dict[str, Any]:
        promised = {"limit": 0.1, "ledger": tmp_path / "ledger"}
        promise = Promise(**promised | {name: change[name] for name in change if name not in ("task", "split")})
        about = TaskData(change.get("task", "sst2"), str(data), change.get("split", "validation"))
        return certify_folder(str(folders / "original"), folder, about, promise, progress=False)

    return call


def test_a_promise_is_kept_in_the_folder(
    small: Path, folders: Path, data: Path, certified: Callable[..., dict[str, Any]]
) -> None:
    """Its figures are those of the two models on the different examples; card, manifest and inspect know of it."""
    found = certified(small)
    assert found["promised"]
    assert found["examples_needed"] is None
    tokenizer = load_tokenizer(small)
    rows = load_split(data, "sst2", tokenizer=tokenizer)
    keys = [str(row["input_ids"]) + str(row["labels"]) for row in rows]
    rows = rows.select([keys.index(key) for key in dict.fromkeys(keys)])
    assert found["examples"] == len(rows) <= 300
    logits = [
        predict_logits(
            load_classifier(place, glue_task("sst2"), tokenizer=tokenizer, new_head=False), rows, tokenizer=tokenizer
        )
        for place in (folders / "original", small)
    ]
    risk = accuracy_drop(*logits, np.asarray(rows["labels"]))
    assert (found["mean"], found["bound"]) == (risk.mean, risk.upper_bound(1 - 0.95))
    half = examples_needed(risk, 0.05, 1 - 0.95)
    assert found["examples_for_half"] == half
    assert half is None or half <= len(rows) or f"Half of that limit would take about {half:,}" in found["words"]
    assert found["words"] in (small / "README.md").read_text()
    inspected = run("inspect", small, "--json")
    assert inspected.exit_code == 0
    assert json.loads(inspected.stdout)["certificate"] == {**found, "changed": []}
    card = small / "README.md"
    card.write_text(f"{card.read_text()}\n## Licence\n\nMine.\n")
    again = card.read_text()
    certified(small)
    assert card.read_text() == again
    assert again.count("## Certificate") == 1
    plain = small.with_name("plain")
    assert run("densify", small, "-o", plain).exit_code == 0
    assert certificate_of(plain) is None, "it was given for other weights"


def test_no_promise_leaves_the_folder_as_it_is(folders: Path, data: Path, tmp_path: Path) -> None:
    """Exit code 1, by how much it falls short, and what it would take."""
    small = tmp_path / "ruined"
    ruin = ("--task", "sst2", "--data", data, "--max-steps", 20, "--learning-rate", 0.3, "--json")
    assert run("finetune", folders / "small", *ruin, "-o", small).exit_code == 0
    before = {file.name: file.read_bytes() for file in small.iterdir()}
    options = ("--task", "sst2", "--data", data, "--max-drop", 0.011, "--ledger", tmp_path / "ledger")
    refused = run("certify", folders / "original", small, *options)
    assert refused.exit_code == 1
    text = " ".join(refused.stdout.split())
    assert "That is not below the limit of 1.10%" in text
    assert "examples like these would do" in text or "the mean itself" in text
    assert {file.name: file.read_bytes() for file in small.iterdir()} == before


def test_asking_with_another_candidate_costs_confidence(
    small: Path, folders: Path, tmp_path: Path, certified: Callable[..., dict[str, Any]]
) -> None:
    """Delta is halved for each earlier candidate or risk; the same one again, or with another limit, costs nothing."""
    other = tmp_path / "other"
    assert run("compress", folders / "original", "--keep", 0.7, "--json", "-o", other).exit_code == 0
    assert (first := certified(small))["earlier_uses"] == 0
    second = certified(other)
    assert second["earlier_uses"] == 1
    assert second["delta"] == pytest.approx(0.025)
    assert "had been used 1 times before" in second["words"] or not second["promised"]
    again = certified(small, limit=0.2)
    assert (again["earlier_uses"], again["bound"]) == (0, first["bound"])
    otherwise = certified(small, limit=0.2, risk="disagreement")
    assert (otherwise["earlier_uses"], otherwise["delta"]) == (2, pytest.approx(0.0125))


def test_edits_void_a_certificate(small: Path, certified: Callable[..., dict[str, Any]]) -> None:
    """Though the folder's checksums were brought up to date: inspect says so, and exits with 1."""
    certified(small)
    file = small / "model.foldflat.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    refresh_checksums(small, [file.name])
    found = certificate_of(small)
    assert found is not None
    assert found["changed"] == [file.name]
    (small / "tokenizer.json").write_text((small / "tokenizer.json").read_text() + "\n")
    refresh_checksums(small, ["tokenizer.json"])
    (small / "notes.txt").write_text("beside the model")
    inspected = run("inspect", small)
    assert inspected.exit_code == 1
    text = " ".join(inspected.stderr.split())
    assert f"Not those that the certificate was given for: {file.name}, tokenizer.json" in text
    (small / "certificate.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"certificate\.json is damaged"):
        certificate_of(small)
    (small / "certificate.json").unlink()
    assert certificate_of(small) is None


def test_what_cannot_be_certified_is_refused(
    small: Path, folders: Path, masked_lm: Path, data: Path, tmp_path: Path, certified: Callable[..., dict[str, Any]]
) -> None:
    """Before the examples are spent."""

    def fails(kind: type[Exception], message: str, folder: Path = small, **change: Any) -> None:
        with pytest.raises(kind, match=message):
            certified(folder, **change)

    fails(DataError, r"examples are too few to promise 0\.005 at 0\.95 .* [0-9]+ would be needed", limit=0.005)
    fails(RecipeError, "split 'train' was trained on", split="train")
    fails(RecipeError, "unknown task 'sts'", task="sts")
    fails(RecipeError, "the limit is 0", limit=0.0)
    fails(RecipeError, "the confidence is 1", confidence=1.0)
    fails(RecipeError, "unknown risk 'loss' of such examples\nhint: accuracy-drop or disagreement", risk="loss")
    fails(ModelNotFoundError, "is no folder", folder=tmp_path / "nowhere")
    fails(DataError, "are the same model", folder=shutil.copytree(folders / "original", tmp_path / "same"))
    fails(DataError, "without a trained head", folder=shutil.copytree(masked_lm, tmp_path / "headless"))
    other = shutil.copytree(folders / "small", tmp_path / "other words")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["renamed"] = vocabulary.pop(max(vocabulary, key=vocabulary.get))
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    refresh_checksums(other, ["tokenizer.json"])
    fails(DataError, "different vocabularies", folder=other)
    further, stranger = (tmp_path / name for name in ("trained further", "of another"))
    more = ("--task", "sst2", "--data", data, "--max-steps", 2, "--json")
    assert run("finetune", folders / "original", *more, "-o", further).exit_code == 0
    assert run("compress", further, "--keep", 0.8, "--json", "-o", stranger).exit_code == 0
    fails(DataError, "was not made of .*original': table `.*` has other weights", folder=stranger)
    assert uses(tmp_path / "ledger") == 0


def test_not_a_number_is_no_answer(small: Path, certified: Callable[..., dict[str, Any]]) -> None:
    """A model that overflows is refused, with the row, and gets no certificate."""
    file = small / "model.foldflat.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"] *= float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    refresh_checksums(small, [file.name])
    with pytest.raises(DataError, match="rows of the compressed model are NaN or infinite, the first is row 0"):
        certified(small)
    assert certificate_of(small) is None
