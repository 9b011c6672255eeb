"""`compress`, `prune` and `certify` with a promise: a folder with a certificate, or none and exit code 1."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from tests.evaluate.conftest import _datasets_cache, glue_folder, masked_lm
from tests.workflow.test_pruning import workplace
from typer.testing import CliRunner

import foldflat
from foldflat.cli import app
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import RecipeError
from foldflat.workflow.certificates import Promise, TaskData, certificate_of, compressing
from foldflat.workflow.certificates.compressing import compress_certified, embedding_recipes

__all__ = ["_datasets_cache", "glue_folder", "masked_lm", "workplace"]

pytestmark = pytest.mark.xdist_group("promises")


def run(*arguments: object) -> Result:
    """Run a command as a user would type it."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def glue(glue_folder: Callable[..., Path]) -> tuple[Any, ...]:
    """Return the options of a task of 200 sentences."""
    return ("--task", "sst2", "--data", glue_folder("sst2", n=200))


@pytest.fixture(scope="module")
def tuned(masked_lm: Path, glue: tuple[Any, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trained classifier."""
    folder = tmp_path_factory.mktemp("promises") / "tuned"
    training = ("--max-steps", 40, "--learning-rate", 3e-3, "--json")
    assert run("finetune", masked_lm, *glue, *training, "-o", folder).exit_code == 0
    return folder


def test_compress_finds_the_smallest_that_can_be_promised(tuned: Path, glue: tuple[Any, ...], tmp_path: Path) -> None:
    """By bytes, with the tokens of the training texts counted; the folder reloads, and is the certified one."""
    small, ledger = tmp_path / "small", tmp_path / "ledger"
    options = (*glue, "--max-drop", 0.1, "--ledger", ledger, "--plan-examples", 100)
    done = run("compress", tuned, *options, "-o", small, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["certificate"]["promised"]
    assert {**found["planned_with"], "left_out": 0} == {
        "task": "sst2",
        "split": "train",
        "examples": 100,
        "left_out": 0,
    }
    assert found["report"]["token_counts"]["documents"] == 200
    size = int(found["chosen"].split()[0].replace(",", ""))
    assert found["report"]["size_bytes_after"] <= size
    assert found["candidates"][0].endswith(" bytes")
    kept = certificate_of(small)
    assert kept is not None
    assert kept["changed"] == []
    assert kept["search"]["chosen"] == found["chosen"]
    assert "## Certificate" in (small / "README.md").read_text()
    assert run("inspect", small).exit_code == 0
    assert run("evaluate", small, *glue, "--json").exit_code == 0
    other = ("--keep", 0.8, "--method", "svd", "--row-weights", "auto")
    printed = run("compress", tuned, *options, "-o", tmp_path / "again", *other)
    text = " ".join(printed.stdout.split())
    assert "Candidates, the largest first" in text
    assert "keep 0." in text
    assert "had been used 1 times before" in text or printed.exit_code == 1


def test_what_candidates_follow_from_tells_searches_apart(tuned: Path, glue: tuple[Any, ...], tmp_path: Path) -> None:
    """Row weights in a file of the same name make another search; the counts of text are saved where they are asked."""
    weights, ledger, counted = tmp_path / "weights.npy", tmp_path / "ledger", tmp_path / "counts.npy"
    promised = (*glue, "--max-drop", 0.6, "--ledger", ledger, "--plan-examples", 50, "--overwrite", "--json")
    options = ("compress", tuned, *promised, "--method", "svd", "--keep", 0.05, "-o", tmp_path / "small")
    run(*options, "--text", f"{glue[3]}:sst2:train", "--save-counts", counted)
    counts = np.load(counted)
    assert counts.sum() > 0
    found = []
    for times in (1, 1, 9):
        np.save(weights, np.where(np.arange(len(counts)) % 2, times, 1))
        found.append(json.loads(run(*options, "--row-weights", weights).stdout)["certificate"]["earlier_uses"])
    assert found == [1, 1, 2]


def test_texts_to_certify_with_are_not_counted(tuned: Path, glue: tuple[Any, ...], tmp_path: Path) -> None:
    """Row weights would follow from them, and candidates from row weights."""
    options = (*glue, "--max-drop", 0.1, "--ledger", tmp_path / "ledger", "-o", tmp_path / "small")
    done = run("compress", tuned, *options, "--text", f"{glue[3]}:sst2:validation")
    assert done.exit_code == 1
    assert "every text to count tokens in is among those to certify with" in " ".join(done.stderr.split())
    assert not (tmp_path / "ledger").exists()


def test_an_interrupt_ends_the_whole_search(
    tuned: Path, glue: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would have been taken of a candidate's own search is none that the same search finds again."""

    def interrupted(*arguments: Any, **options: Any) -> Any:
        result = foldflat.compress(*arguments, **options)
        result.plan.tables[0].ended_early = True  # type: ignore[union-attr]
        return result

    monkeypatch.setattr(compressing, "compress", interrupted)
    data = TaskData("sst2", str(glue[3]))
    target = tmp_path / "small"
    with pytest.raises(KeyboardInterrupt):
        compress_certified(
            str(tuned), target, EmbeddingRecipe(method="svd"), data, Promise(0.1, ledger=tmp_path / "ledger")
        )
    assert not target.exists()


def test_prune_finds_the_smallest_that_can_be_promised(workplace: Path, tmp_path: Path) -> None:
    """Planned on images that are held out of training; the folder can be certified again, and pays for it."""
    import tiny_nets  # type: ignore[import-not-found]

    small, ledger = tmp_path / "small", tmp_path / "ledger"
    network = ("tiny_nets:build", "--weights", workplace / "net.safetensors", "--data", workplace / "data")
    promised = ("--max-drop", 0.3, "--ledger", ledger)
    options = (*network, "--images", 16, "--plan-examples", 24, "--method", "l2", *promised, "--json")
    done = run("prune", *options, "--steps", 4, "--batch-size", 16, "-o", small)
    found = json.loads(done.stdout)
    assert done.exit_code == (0 if found["chosen"] else 1), done.output
    assert found["candidates"][0] == "keep 0.98"
    assert found["planned_with"]["examples"] == 24
    assert [place.name for place in tmp_path.iterdir() if place.name.startswith(".")] == []
    assert found["chosen"], "the network answers at random, so smaller ones lose nothing"
    loaded = foldflat.load(small, model=tiny_nets.build())
    assert sum(parameter.numel() for parameter in loaded.parameters()) == found["report"]["parameters_after"]
    kept = certificate_of(small)
    assert kept is not None
    assert "on images (test) is" in kept["words"]
    inspected = run("inspect", small)
    assert inspected.exit_code == 0
    assert "on images (test) is" in " ".join(inspected.stdout.split())
    again = run("certify", network[0], small, *network[1:], *promised, "--image-size", 8, "--json")
    assert json.loads(again.stdout)["earlier_uses"] == 1
    assert json.loads(again.stdout)["mean"] == pytest.approx(found["certificate"]["mean"])


def test_no_candidate_is_made_with_images_to_certify_with(workplace: Path, tmp_path: Path) -> None:
    """Those that are in both splits are neither calibrated, retrained nor planned with; where all are, it is said."""
    import datasets

    shutil.copytree(workplace / "data", tmp_path / "data")
    both = [datasets.Dataset.from_parquet(str(workplace / "data" / f"{split}.parquet")) for split in ("train", "test")]
    common = datasets.concatenate_datasets([both[0], both[1].select(range(12))])
    common.to_parquet(tmp_path / "data" / "train.parquet")
    network = ("tiny_nets:build", "--weights", workplace / "net.safetensors", "--data", tmp_path / "data")
    promised = ("--max-drop", 0.3, "--ledger", tmp_path / "ledger", "--plan-examples", 24, "--images", 16, "--json")
    options = ("prune", *network, *promised, "--method", "l2", "-o", tmp_path / "small")
    found = json.loads(run(*options).stdout)
    assert found["planned_with"]["left_out"] == 12
    refused = run(*options, "--train-split", "test", "--overwrite")
    assert refused.exit_code == 1
    assert "all 48 images to train and plan with are among those to certify with" in " ".join(refused.stderr.split())


def test_no_promise_writes_nothing(tuned: Path, glue: tuple[Any, ...], tmp_path: Path) -> None:
    """Exit code 1, what it would take, and no folder."""
    options = (*glue, "--max-drop", 0.016, "--method", "svd", "--keep", 0.02, "--ledger", tmp_path / "ledger")
    done = run("compress", tuned, *options, "-o", tmp_path / "small")
    assert done.exit_code == 1
    assert "can be promised; tested: keep 0.02" in " ".join(done.stdout.split())
    assert not (tmp_path / "small").exists()


def test_options_that_contradict_are_refused(tuned: Path, glue: tuple[Any, ...], tmp_path: Path) -> None:
    """Each with the way out, before anything is read."""

    def fails(message: str, *arguments: object) -> None:
        done = run(*arguments)
        assert done.exit_code in (1, 2), done.output
        assert message in " ".join(done.output.replace("│", "").split())

    small = ("-o", tmp_path / "small")
    promised = (*glue, "--max-drop", 0.1, *small)
    fails("--max-drop is given without --task", "compress", tuned, "--max-drop", 0.1, *small)
    fails("--task is given, but nothing is promised", "compress", tuned, *glue, *small)
    for option, value in (("--ledger", "x"), ("--confidence", 0.9), ("--data", "x"), ("--plan-examples", 9)):
        fails(f"{option} is given, but nothing is promised", "compress", tuned, option, value, *small)
    fails("--plan-examples is given, but", "prune", "x:y", "--data", "x", "--plan-examples", 9, *small)
    fails("--image-size is given beside", "certify", tuned, tuned, *glue, "--image-size", 8, "--max-drop", 0.1)
    fails("--plan is given beside --max-drop", "compress", tuned, *promised, "--plan", "plan.json")
    fails("is to choose what is tested, and to certify it", "compress", tuned, *promised, "--plan-split", "validation")
    fails("`max_error` is 0.1, but the size is what is searched", "compress", tuned, *promised, "--max-error", 0.1)
    fails("has 3", "compress", tuned, "--task", "mnli", "--max-drop", 0.1, *small)
    fails("no examples", "certify", tuned, tuned, "--max-drop", 0.1)
    fails("--texts is given beside --task", "certify", tuned, tuned, *glue, "--texts", "x", "--max-drop", 0.1)
    broken = shutil.copytree(tuned, tmp_path / "base")
    config = json.loads((broken / "config.json").read_text())
    config["architectures"] = [config["architectures"][0].replace("ForSequenceClassification", "Model")]
    (broken / "config.json").write_text(json.dumps(config))
    fails("no classifier", "compress", broken, *promised)


def test_ladders_go_down_from_the_given_size() -> None:
    """In bytes for `auto` and mixed coefficients, else in parameters; integer rows have one size."""
    assert list(embedding_recipes(EmbeddingRecipe(keep_ratio=0.25), 1000))[:2] == ["keep 0.25", "keep 0.2"]
    assert next(iter(embedding_recipes(EmbeddingRecipe(method="svd"), 1000))) == "keep 0.8"
    mixed = embedding_recipes(EmbeddingRecipe(budget_bytes=130, coefficients="mixed"), 960)
    assert [recipe.budget_bytes for recipe in mixed.values()] == [130, 120, 80, 60, 40, 30, 20, 15, 10, 7]
    assert next(iter(embedding_recipes(EmbeddingRecipe(method="auto"), 960))) == "360 bytes"
    assert next(iter(embedding_recipes(EmbeddingRecipe(method="auto", keep_ratio=0.25), 960))) == "240 bytes"
    assert list(embedding_recipes(EmbeddingRecipe(method="int8"), 960)) == ["int8"]
    with pytest.raises(RecipeError, match=r"`max_error` is 0\.1, but the size is what is searched"):
        embedding_recipes(EmbeddingRecipe(max_error=0.1), 960)
