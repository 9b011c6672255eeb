"""The whole demo in miniature, its cache, its reload check; and in full the bounds on its figures."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import foldflat
from foldflat.demo import DemoSettings, classifier, reload, run_demo, walkthrough
from foldflat.demo.classifier import accuracy, cached_bench
from foldflat.demo.corpus import CorpusSettings, build_corpus
from foldflat.demo.machine import cache_folder
from foldflat.demo.tokenizer import train_tokenizer
from foldflat.errors import CheckpointError, RecipeError, TargetExistsError

TINY = DemoSettings(
    corpus=CorpusSettings(n_modules=3, max_passages_per_module=30),
    vocabulary=120,
    max_length=32,
    dim=8,
    hidden_dim=16,
    heads=2,
    epochs=2.0,
)
QUIET = Console(quiet=True)
METHODS = ["uncompressed", "svd", "subspaces", "svd", "subspaces", "int8", "int4"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the demo's files in a folder of this test."""
    monkeypatch.setenv("FOLDFLAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def comparable(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows without the seconds, which no two runs share."""
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in results["rows"]]


def test_runs_from_nothing_to_a_reloaded_folder(
    cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every method is measured, the best subspaces are saved and read again by a new process, all is JSON."""
    results = run_demo(output=tmp_path / "best", settings=TINY)

    assert [row["method"] for row in results["rows"]] == METHODS
    for row in results["rows"]:
        assert 0 < row["accuracy"] <= 1
        assert 0 < row["accuracy_finetuned"] <= 1
    sizes = {(row["method"], row["keep_ratio"]): row["parameters"] for row in results["rows"]}
    dense = sizes["uncompressed", 1.0]
    for keep in (0.6, 0.3):
        assert sizes["svd", keep] <= keep * dense
        assert sizes["subspaces", keep] <= keep * dense
    assert results["reload"]["logits_equal"]
    assert results["reload"]["logits"] == 3 * results["corpus"]["validation_passages"]
    subspaces = [row["accuracy_finetuned"] for row in results["rows"] if row["method"] == "subspaces"]
    assert results["saved"]["accuracy_finetuned"] == max(subspaces)
    assert {"cpu", "torch_threads"} <= set(results["machine"])
    assert json.loads(json.dumps(results))["seed"] == 0
    assert foldflat.load(tmp_path / "best").config.id2label == dict(enumerate(results["corpus"]["modules"]))
    assert "foldflat demo" in (tmp_path / "best" / "README.md").read_text(encoding="utf-8")
    printed = capfd.readouterr().out
    assert "subspaces" in printed
    assert "bit for bit" in printed

    monkeypatch.setattr(walkthrough, "check_reload", lambda *_: {"logits": 0})  # a second process adds nothing
    again = run_demo(settings=TINY, progress=False)

    assert again["classifier"]["from_cache"]
    assert not results["classifier"]["from_cache"]
    assert comparable(again) == comparable(results)
    assert Path(again["saved"]["folder"]).is_relative_to(cache)
    assert capfd.readouterr() == ("", "")


def test_refuses_a_full_output_before_any_work(cache: Path, tmp_path: Path) -> None:
    """Minutes of training are not spent on what cannot be saved."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(TargetExistsError, match="exists and is not empty"):
        run_demo(output=tmp_path / "full", settings=TINY, progress=False)
    assert not cache.exists()


def test_refuses_to_compare_nothing() -> None:
    """Without a keep ratio there would be nothing to save."""
    with pytest.raises(RecipeError, match="`keep_ratios` is empty"):
        DemoSettings(keep_ratios=())


def test_an_interrupted_training_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is written beside and renamed: the next run finds no half-made model."""

    def interrupt(_: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(classifier, "file_sha256", interrupt)
    corpus = build_corpus(TINY.corpus)
    with pytest.raises(KeyboardInterrupt):
        cached_bench(corpus, TINY, 0, QUIET)
    assert list((cache / "demo").iterdir()) == []


@pytest.mark.usefixtures("cache")
def test_a_damaged_cache_is_trained_again_and_said_so() -> None:
    """A truncated weights file is never loaded; other settings or another seed never meet it."""
    corpus = build_corpus(TINY.corpus)
    first = cached_bench(corpus, TINY, 0, QUIET)
    weights = first.folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    console = Console()

    with console.capture() as captured:
        second = cached_bench(corpus, TINY, 0, console)

    assert "damaged; training the classifier again" in captured.get()
    assert not second.from_cache
    assert weights.read_bytes() == whole
    assert cached_bench(corpus, TINY, 1, QUIET).folder != first.folder


@pytest.mark.usefixtures("cache")
def test_reload_check_sees_one_changed_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not the model at hand, and one that cannot be opened, are errors."""
    corpus = build_corpus(TINY.corpus)
    bench = cached_bench(corpus, TINY, 0, QUIET)
    result = foldflat.compress(bench.model, foldflat.EmbeddingRecipe(method="svd"))
    foldflat.save(result, tmp_path / "saved", extra=bench.tokenizer.save_pretrained)
    passages = corpus.validation
    with torch.no_grad():
        result.model.classifier.bias[0] += 1e-3

    def here(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        reload.write_logits(*command[3:])
        return subprocess.CompletedProcess(command, 0)

    with monkeypatch.context() as patch:  # the whole run above starts a process; starting another takes seconds
        patch.setattr(reload.subprocess, "run", here)
        with pytest.raises(CheckpointError, match=r"the logits .* differ .* by up to 0\.00"):
            reload.check_reload(result.model, bench.tokenizer, tmp_path / "saved", passages)
    monkeypatch.setattr(reload, "_SCRIPT", "raise SystemExit('no weights here')")
    with pytest.raises(
        CheckpointError, match=r"cannot be opened in a new process, which ended with 1:\nno weights here"
    ):
        reload.check_reload(result.model, bench.tokenizer, tmp_path / "saved", passages)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FOLDFLAT_CACHE, then XDG_CACHE_HOME where absolute, then ~/.cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.delenv("FOLDFLAT_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "foldflat"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "foldflat"
    monkeypatch.setenv("FOLDFLAT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_tokenizer_is_the_same_in_every_run_and_has_no_idle_pieces() -> None:
    """Ties between merges are broken alike, and pieces that only led to longer ones are dropped."""
    texts = [passage.text for passage in build_corpus(TINY.corpus).train]
    tokenizer = train_tokenizer(texts, vocabulary=800, max_length=64)
    assert train_tokenizer(texts, vocabulary=800, max_length=64).get_vocab() == tokenizer.get_vocab()
    used = {number for text in texts for number in tokenizer(text, truncation=True)["input_ids"]}
    idle = [piece for piece, number in tokenizer.get_vocab().items() if number not in used]
    assert all(len(piece.removeprefix("##")) == 1 or piece.startswith("[") for piece in idle)
    assert tokenizer.decode(tokenizer("Def x")["input_ids"]) == "[CLS] def x [SEP]"


@pytest.mark.slow
@pytest.mark.usefixtures("cache")
def test_the_task_is_neither_too_easy_nor_too_hard() -> None:
    """Uncompressed 70 to 97 % accurate, most of it a table, and svd at 30 % loses at least 2 points."""
    settings = DemoSettings()
    bench = cached_bench(build_corpus(settings.corpus), settings, 0, QUIET)
    table = bench.model.get_input_embeddings().weight
    assert table.numel() >= 0.5 * sum(parameter.numel() for parameter in bench.model.parameters())
    uncompressed = accuracy(bench.model, bench.validation, bench.tokenizer)
    assert 0.70 <= uncompressed <= 0.97
    svd = foldflat.compress(bench.model, foldflat.EmbeddingRecipe(keep_ratio=0.3, method="svd"))
    assert accuracy(svd.model, bench.validation, bench.tokenizer) <= uncompressed - 0.02
