"""Row weights counted in text, on the command line: in process."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tests.test_cli import run, run_json
from tests.tiny import save_tiny_folder, tiny_tokenizer

from foldflat.cluster import streaming, sweep
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.workflow import tables
from foldflat.workflow.folders import compress_folder
from foldflat.workflow.weighting import TextSample

WEIGHTS = "model.foldflat.safetensors"
MIXED = ("--coefficients", "mixed", "--budget", "14kB")
QUICK = ("--keep", "0.5", "-k", "2")
ADVICE = "token counts from a sample of your text gain more"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a folder with a model of 300 tokens, its table alone beside its tokenizer, and text in two files."""
    save_tiny_folder(tmp_path / "model", "distilbert", vocabulary=300, hidden=64)
    table = load_file(tmp_path / "model" / "model.safetensors")["distilbert.embeddings.word_embeddings.weight"]
    (tmp_path / "bare").mkdir()
    save_file({"rows": table}, tmp_path / "bare" / "table.safetensors")
    (tmp_path / "bare" / "tokenizer.json").write_bytes((tmp_path / "model" / "tokenizer.json").read_bytes())
    words = [word for word in tiny_tokenizer(300).get_vocab() if word.isalpha()]
    lines = [" ".join(words[i % len(words)] for i in range(j * j // 7 % 30)) for j in range(200)]
    (tmp_path / "one.txt").write_text("\n".join(lines[:120]))
    (tmp_path / "two.jsonl").write_text("".join(json.dumps({"body": line, "n": 1}) + "\n" for line in lines[120:]))
    return tmp_path


def counted(place: Path, n: int = 300) -> np.ndarray:
    """Count by hand what `place` holds."""
    texts = (place / "one.txt").read_text().split("\n")
    texts += [json.loads(line)["body"] for line in (place / "two.jsonl").read_text().splitlines()]
    tokenizer = tiny_tokenizer(300)
    blank = [not text for text in texts[:120]]
    ids = [
        i for text, out in zip(texts, blank + [False] * 80, strict=True) if not out for i in tokenizer(text).input_ids
    ]
    return np.bincount(ids, minlength=n)


def weights_of(folder: Path) -> bytes:
    """Return the weights of a compressed folder, as they lie on disk."""
    return (folder / WEIGHTS).read_bytes()


def test_text_gives_the_weights_that_counting_by_hand_gives(place: Path) -> None:
    """Bit for bit; the counts are saved and can be given again, and the report says what was read."""
    text = ("--text", place / "one.txt", "--text", place / "two.jsonl")
    report = run_json("compress", place / "model", *QUICK, *text, "--save-counts", place / "c.npy", "-o", place / "a")
    expected = counted(place)
    assert np.array_equal(np.load(place / "c.npy"), expected)
    np.save(place / "by_hand.npy", expected)
    for name, given in (("b", "by_hand.npy"), ("c", "c.npy")):
        run_json("compress", place / "model", *QUICK, "--row-weights", place / given, "-o", place / name)
    assert weights_of(place / "a") == weights_of(place / "b") == weights_of(place / "c")
    said = report["token_counts"]
    assert said["columns"] == {str(place / "one.txt"): [], str(place / "two.jsonl"): ["body"]}
    assert (said["tokens"], said["rows"], said["rows_seen"]) == (expected.sum(), 300, (expected > 0).sum())
    assert report["recipe"]["row_weights"] == "auto"
    assert report["tables"][0]["weighted_energy_lost"] < report["tables"][0]["energy_lost"]
    assert not report["warnings"]
    assert json.loads((place / "a" / "foldflat.json").read_text())["report"]["token_counts"] == said


def test_a_bare_table_is_counted_by_the_tokenizer_beside_it_or_a_named_one(place: Path) -> None:
    """The same weights as for the whole model, whichever way its tokenizer is found."""
    text = ("--row-weights", "auto", "--text", place / "one.txt", "--text-limit", 50)
    file = place / "bare" / "table.safetensors"
    run_json("compress", file, *QUICK, *text, "-o", place / "beside")
    np.save(place / "alone.npy", load_file(file)["rows"].numpy())
    run_json("compress", place / "alone.npy", *QUICK, *text, "--tokenizer", place / "model", "-o", place / "named")
    assert weights_of(place / "beside") == weights_of(place / "named")
    result = run("compress", place / "alone.npy", *QUICK, *text, "-o", place / "none")
    assert result.exit_code == 1
    assert "has no tokenizer" in result.stderr
    assert not (place / "none").exists()


def test_a_plan_names_saved_counts_or_asks_for_the_text_again(place: Path) -> None:
    """Followed later it gives the same bits; without either it says what is missing."""
    table, text = place / "bare" / "table.safetensors", ("--text", place / "one.txt")
    run_json("plan", table, *QUICK, *text, "--save-counts", place / "c.npy", "-o", place / "saved.json")
    planned = run_json("plan", table, *QUICK, *text, "-o", place / "plan.json")
    assert planned["token_counts"]["documents"] < 120
    run_json("compress", table, *QUICK, *text, "-o", place / "direct")
    run_json("compress", table, "--plan", place / "saved.json", "-o", place / "by_counts")
    run_json("compress", table, "--plan", place / "plan.json", *text, "-o", place / "by_text")
    assert weights_of(place / "direct") == weights_of(place / "by_counts") == weights_of(place / "by_text")
    result = run("compress", table, "--plan", place / "plan.json", "-o", place / "none")
    assert result.exit_code == 2
    assert "`--text` with a file or data set" in " ".join(result.stderr.split())


def test_byte_budgets_without_counts_are_told_once_what_they_miss(place: Path) -> None:
    """In the report and on the terminal, where mixed coefficients or the best method are asked for; not elsewhere."""
    text = ("--text", place / "one.txt")
    for options, times in ((MIXED, 1), (("--method", "auto", *QUICK), 1), (QUICK, 0), ((*MIXED, *text), 0)):
        result = run("plan", place / "model", *options)
        assert result.exit_code == 0, result.output
        assert " ".join(result.stderr.split()).count(ADVICE) == times, options
    shown = " ".join(result.stdout.split())
    assert "tokens, special ones too, in" in shown
    assert re.search(r"[\d.]+% .*by .*weight", shown)
    warnings = run_json("plan", place / "model", "--method", "auto", *QUICK)["warnings"]
    assert [ADVICE in warning for warning in warnings] == [True]


def test_text_and_tokenizers_that_do_not_fit_are_warned_of(place: Path) -> None:
    """Mostly unknown tokens, and a vocabulary of another size than the table, still give a result."""
    (place / "foreign.txt").write_text("私 我 a")
    report = run_json("plan", place / "model", *QUICK, "--text", place / "foreign.txt")
    assert ["67% of the tokens counted are unknown" in warning for warning in report["warnings"]] == [True]
    tiny_tokenizer(200).save_pretrained(place / "smaller")
    options = (*QUICK, "--text", place / "one.txt", "--tokenizer", place / "smaller")
    assert any(
        "the tokenizer has 200 tokens" in line for line in run_json("plan", place / "model", *options)["warnings"]
    )


def test_counts_reach_a_table_that_is_read_in_pieces(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights as from the counts that were saved."""
    for module in (streaming, tables):
        monkeypatch.setattr(module, "SAMPLE_ROWS", 100)
        monkeypatch.setattr(module, "JUDGE_ROWS", 50)
    monkeypatch.setattr(sweep, "CHUNK_ELEMENTS", 50 * 64)
    file, text = (
        place / "bare" / "table.safetensors",
        TextSample((str(place / "one.txt"),), counts_file=place / "c.npy"),
    )
    recipe = EmbeddingRecipe(keep_ratio=0.4, n_subspaces=2)
    result = compress_folder(str(file), place / "text", recipe, text=text)
    assert result is not None
    assert result.report["token_counts"]["rows"] == 300
    compress_folder(str(file), place / "counts", replace(recipe, row_weights=str(place / "c.npy")))
    assert weights_of(place / "text") == weights_of(place / "counts")


BAD: list[tuple[tuple[str, ...], int, str]] = [
    (("--row-weights", "auto"), 2, "`--text` with a file or data set"),
    (("--text", "{dir}/none.txt"), 1, "no file .*none.txt"),
    (("--text", "{dir}/none/of/this"), 1, "no folder"),
    (("--text", "{dir}/empty.txt"), 1, "0 texts hold no token"),
    (("--text", "{dir}/model/model.safetensors"), 1, "is not plain text in UTF-8"),
    (("--text", "{dir}/two.jsonl", "--text-column", "text"), 1, r"is not there; there are body \(str\), n \(int\)"),
    (("--text", "{dir}/two.jsonl", "--text-limit", "0"), 2, "limit is 0"),
    (("--text", "{dir}/one.txt", "--row-weights", "{dir}/short.npy"), 2, "row weights are .*short.npy; hint"),
    (("--text", "{dir}/one.txt", "--tokenizer", "{dir}/larger"), 1, "tokens whose id is 300 or more.*another model"),
    (("--text", "{dir}/one.txt", "--save-counts", "{dir}/c.json"), 2, "name it .npy"),
    (
        ("--text", "{dir}/one.txt", "--save-counts", "{dir}/none/c.npy"),
        2,
        "the counts file is to be written, but folder",
    ),
    (("--save-counts", "{dir}/c.npy"), 2, "--save-counts is given without text"),
    (("--text-column", "body"), 2, "--text-column is given without text"),
    (("--row-weights", "{dir}/short.npy"), 1, r"shape \(5,\), but table .* has 300 rows; hint: .*another model"),
    (("--row-weights", "{dir}/two.npy"), 1, "two.npy' holds no counts"),
]


@pytest.mark.parametrize(("options", "code", "message"), BAD, ids=[" ".join(options) for options, _, _ in BAD])
def test_bad_text_and_counts_say_what_is_wrong_and_write_nothing(
    place: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    """Missing, empty, binary or without the column; contradicting options; counts for another vocabulary."""
    (place / "empty.txt").touch()
    np.save(place / "short.npy", np.ones(5))
    (place / "two.npy").write_bytes(b"junk")
    tiny_tokenizer(600).save_pretrained(place / "larger")
    words = [word for word in tiny_tokenizer(600).get_vocab() if word.isalpha()]
    (place / "one.txt").write_text(" ".join(words))
    before = sorted(place.rglob("*"))
    result = run("compress", place / "model", "-o", place / "out", *(option.format(dir=place) for option in options))
    assert result.exit_code == code, result.output
    assert re.search(message, " ".join(result.stderr.split())), result.stderr
    assert sorted(place.rglob("*")) == before


def test_sentences_of_a_task_bring_down_the_weighted_loss_of_a_real_table(data_root: Path, tmp_path: Path) -> None:
    """Of a trained embedder, counted by its bare vocabulary; the twin on generated data is the first test."""
    table = data_root / "models" / "potion-base-2M" / "model.safetensors"
    source = f"{data_root / 'data' / 'glue'}:sst2"
    options: tuple[Any, ...] = ("--keep", 0.4, "-k", 2, "--text", source, "--text-limit", 5000)
    report = run_json("plan", table, *options, "--save-counts", tmp_path / "c.npy")
    assert report["token_counts"]["columns"] == {source: ["sentence"]}
    assert report["token_counts"]["unknown_share"] < 0.01
    assert np.load(tmp_path / "c.npy").sum() == report["token_counts"]["tokens"] > 5000
    assert report["tables"][0]["weighted_energy_lost"] < report["tables"][0]["energy_lost"]
