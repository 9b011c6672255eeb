"""The command line, in process: what each command prints and writes, and what it says when it cannot."""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForMaskedLM, AutoTokenizer
from typer.testing import CliRunner

import foldflat
from foldflat.cli import app
from foldflat.errors import DataError
from tests.tiny import planted_table, save_tiny_folder


def run(*arguments: object) -> Result:
    """Run a command as a user would type it."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_json(*arguments: object) -> dict[str, Any]:
    """Run a command that must succeed, with `--json`."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder by its content."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Give a folder with a tied masked language model and its tokenizer."""
    save_tiny_folder(tmp_path / "model", "distilbert", vocabulary=300)
    return tmp_path / "model"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Give a file with a bare table."""
    rows, _ = planted_table(400, 24, 4, 5)
    np.save(tmp_path / "table.npy", rows.numpy())
    return tmp_path / "table.npy"


def test_compress_delivers_a_folder_that_transformers_loads_with_its_tokenizer_and_card(model: Path) -> None:
    """The folder is complete: the same logits from every way of loading it, tokenizer and card beside them."""
    target = model.parent / "small"
    report = run_json("compress", model, "--keep", 0.6, "-o", target)
    assert report["parameters_after"] <= 0.6 * report["parameters_before"]
    loaded = AutoModelForMaskedLM.from_pretrained(target)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, foldflat.load(target)(input_ids=ids).logits)
    assert AutoTokenizer.from_pretrained(target).get_vocab() == AutoTokenizer.from_pretrained(model).get_vocab()
    card = (target / "README.md").read_text()
    for fact in ("base_model: model", "import foldflat", "energy lost", "int8 rows take"):
        assert fact in card


def test_densify_gives_back_a_model_without_foldflat(model: Path) -> None:
    """The plain folder computes the same within rounding and has an ordinary weights file."""
    small, plain = model.parent / "small", model.parent / "plain"
    run_json("compress", model, "-o", small)
    run_json("densify", small, "-o", plain)
    assert (plain / "model.safetensors").is_file()
    assert "quantization_config" not in json.loads((plain / "config.json").read_text())
    ids = torch.arange(5, 25)[None]
    dense = AutoModelForMaskedLM.from_pretrained(plain)
    assert type(dense.get_input_embeddings()) is nn.Embedding
    with torch.no_grad():
        expected = foldflat.load(small)(input_ids=ids).logits
        torch.testing.assert_close(dense(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_a_bare_table_is_compressed_reloaded_and_densified(table: Path) -> None:
    """A table file needs no transformers model around it."""
    small, plain = table.parent / "small", table.parent / "plain"
    run_json("compress", table, "-k", 4, "--keep", 0.5, "-o", small)
    layer = foldflat.load(small)
    rows = torch.from_numpy(np.load(table))
    assert layer(torch.tensor([[3, 5], [7, 3]])).shape == (2, 2, 24)
    assert (layer.to_dense() - rows).norm() / rows.norm() < 0.3
    run_json("densify", small, "-o", plain)
    assert torch.equal(load_file(plain / "model.safetensors")["weight"], layer.to_dense())


def test_a_plan_can_be_written_and_followed_later(table: Path) -> None:
    """Following a plan gives the same bits as compressing with its recipe."""
    folder = table.parent
    values = run_json("plan", table, "--keep", 0.4, "--seed", 3, "-o", folder / "plan.json")
    assert [trial["n_subspaces"] for trial in values["tables"][0]["trials"]][:3] == [1, 2, 4]
    run_json("compress", table, "--plan", folder / "plan.json", "-o", folder / "planned")
    run_json("compress", table, "--keep", 0.4, "--seed", 3, "-o", folder / "direct")
    name = "model.foldflat.safetensors"
    assert (folder / "planned" / name).read_bytes() == (folder / "direct" / name).read_bytes()


def test_a_size_budget_is_never_exceeded_on_disk(table: Path) -> None:
    """`--budget 20kB` counts every stored byte; the file adds its header only."""
    report = run_json("compress", table, "--budget", "20kB", "-o", table.parent / "small")
    assert report["size_bytes_after"] <= 20_000
    weights = load_file(table.parent / "small" / "model.foldflat.safetensors")
    assert sum(t.numel() * t.element_size() for t in weights.values()) == report["size_bytes_after"]


def test_a_plan_for_a_budget_is_followed_without_a_search(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The winner alone is fitted again, to the same bits as by a search; the plan is the same but for its seconds."""
    folder = table.parent
    options = ("--budget", "17kB", "--seed", 2)
    plans = [run_json("plan", table, *options, "-o", folder / "plan.json") for _ in range(2)]
    assert without_seconds(plans[0]) == without_seconds(plans[1])
    assert plans[0]["recipe"]["method"] == "auto"
    (entry,) = plans[0]["tables"]
    assert entry["winner"] in [row["name"] for row in entry["candidates"] if row["fits"]]
    with monkeypatch.context() as patch:
        patch.setattr("foldflat.embedding.plan.search", None)
        run_json("compress", table, "--plan", folder / "plan.json", "-o", folder / "planned")
    report = run_json("compress", table, *options, "-o", folder / "direct")
    name = "model.foldflat.safetensors"
    assert (folder / "planned" / name).read_bytes() == (folder / "direct" / name).read_bytes()
    assert report["size_bytes_after"] <= 17_000
    assert report["tables"][0]["reason"] == entry["reason"]


def without_seconds(values: Any) -> Any:
    """Return JSON values without how long anything took."""
    if isinstance(values, dict):
        return {key: without_seconds(value) for key, value in values.items() if key != "seconds"}
    return [without_seconds(value) for value in values] if isinstance(values, list) else values


def test_a_search_is_shown_and_drawn(table: Path) -> None:
    """A person reads every candidate, the choice and the reason; the picture has a mark for each that was measured."""
    file = table.parent / "ways.svg"
    result = run("plan", table, "--method", "auto", "-k", 2, "--keep", 0.5, "--picture", file)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.stdout.split())
    for part in ("int8", "svd bfloat16", "chosen", "rival", "Use int8: it loses", "half of the numbers"):
        assert part in shown
    drawn = ET.parse(file).getroot()
    names = {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"int8", "int4", "pq", "svd bfloat16", "subspaces bfloat16"} <= names
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}circle"))) == 5
    refused = run("plan", table, "-k", 2, "--picture", file)
    assert refused.exit_code == 2
    assert "a picture shows what a search tried; hint: use --budget" in " ".join(refused.stderr.split())


@pytest.mark.parametrize("option", ["-o", "--picture", "--save-counts"])
def test_what_cannot_be_written_is_refused_before_the_search(table: Path, option: str) -> None:
    """A folder that does not exist costs no search and no fit."""
    file = table.parent / "none" / "made.npy"
    result = run("plan", table, "--budget", "30kB", "--text", table.parent / "none.txt", option, file)
    assert result.exit_code == 2
    assert "does not exist; hint: make it first" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("options", "method"),
    [
        (("--budget", "30kB"), "auto"),
        (("--max-error", "0.1"), "auto"),
        (("--keep", "0.5"), "subspaces"),
        ((), "subspaces"),
        (("--budget", "30kB", "-k", "2"), "subspaces"),
        (("--budget", "30kB", "--equal-ranks"), "subspaces"),
        (("--budget", "30kB", "--coefficients", "mixed"), "subspaces"),
        (("--budget", "30kB", "--method", "svd"), "svd"),
    ],
)
def test_bytes_alone_leave_the_method_open(
    table: Path, options: tuple[str, ...], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does an error; whoever says anything about subspaces gets subspaces."""
    asked: list[foldflat.EmbeddingRecipe] = []

    def planned(_: str, recipe: foldflat.EmbeddingRecipe, **__: Any) -> None:
        asked.append(recipe)
        raise DataError("enough")

    monkeypatch.setattr("foldflat.cli.embeddings.plan_source", planned)
    run("plan", table, *options)
    assert asked[0].method == method


def test_inspect_names_shape_share_and_tied_layer(model: Path) -> None:
    """Before and after compressing, every embedding is listed with what is tied to it."""
    before = run_json("inspect", model)["tables"][0]
    assert before["names"] == ["distilbert.embeddings.word_embeddings"]
    assert before["tied_heads"] == ["vocab_projector"]
    assert before["stored_as"] == "dense"
    run_json("compress", model, "-o", model.parent / "small")
    after = run_json("inspect", model.parent / "small")["tables"][0]
    assert (after["stored_as"], after["tied_heads"]) == ("subspaces", ["vocab_projector"])
    assert after["size_bytes"] < before["size_bytes"]


def test_text_output_shows_trials_rivals_and_the_verdict(table: Path) -> None:
    """Without --json a person reads a table, the numbers of subspaces tried, and which choice is better."""
    result = run("plan", table)
    assert result.exit_code == 0
    for part in ("subspaces", "int8", "energy lost", "If stored bytes are all that counts"):
        assert " ".join(part.split()) in " ".join(result.stdout.split())


def test_finetune_and_evaluate_work_on_a_compressed_folder(model: Path, glue_folder: Path) -> None:
    """A compressed encoder is fine-tuned, saved as such, and scored alike by the next process's command."""
    small, tuned = model.parent / "small", model.parent / "tuned"
    run_json("compress", model, "-o", small)
    options = ("--task", "sst2", "--data", glue_folder)
    trained = run_json("finetune", small, *options, "--max-steps", 3, "--learning-rate", 1e-3, "-o", tuned)
    assert trained["train"]["steps"] == 3
    assert not (tuned / "training_args.bin").exists()
    assert run_json("inspect", tuned)["tables"][0]["stored_as"] == "subspaces"
    assert run_json("evaluate", tuned, *options)["metrics"] == trained["metrics"]


def test_finetune_trains_the_coefficients_of_integer_tables(model: Path, glue_folder: Path) -> None:
    """`--tables all` says what it trained, in JSON and in the card; the folder scores the same when it is read."""
    small, tuned = model.parent / "small-int4", model.parent / "tuned-int4"
    run_json("compress", model, "--coefficients", "int4", "-o", small)
    options = ("--task", "sst2", "--data", glue_folder)
    rate = ("--max-steps", 3, "--learning-rate", 1e-2)
    trained = run_json("finetune", small, *options, *rate, "--tables", "all", "-o", tuned)
    assert list(trained["train"]["tables"].values()) == [["bases", "coefficients"]]
    assert "word_embeddings` were trained: bases, coefficients." in (tuned / "README.md").read_text()
    sizes = [run_json("inspect", folder)["tables"][0]["size_bytes"] for folder in (small, tuned)]
    assert sizes[0] == sizes[1]
    assert run_json("evaluate", tuned, *options)["metrics"] == trained["metrics"]


def test_of_several_processes_the_first_writes_and_prints(
    model: Path, glue_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its RANK from torchrun; were all to write, the last would find that its target exists."""
    options = ["--task", "sst2", "--data", glue_folder, "--max-steps", 1]
    monkeypatch.setenv("RANK", "1")
    second = run("finetune", model, *options, "-o", model.parent / "tuned")
    assert (second.exit_code, second.stdout) == (0, "")
    assert not (model.parent / "tuned").exists()
    monkeypatch.setenv("RANK", "0")
    assert "accuracy" in run("finetune", model, *options, "-o", model.parent / "tuned").stdout
    assert (model.parent / "tuned" / "config.json").is_file()


def test_finetune_learns_from_the_uncompressed_model(model: Path, glue_folder: Path) -> None:
    """Teacher, held-out rows and what they decided are in JSON and card; a teacher of other words is refused."""
    parent, small, tuned = (model.parent / name for name in ("parent", "small-parent", "distilled"))
    options = ("--task", "sst2", "--data", glue_folder, "--max-steps", 3, "--learning-rate", 1e-3)
    run_json("finetune", model, *options, "-o", parent)
    run_json("compress", parent, "-o", small)
    own = ("--teacher", parent, "--teacher-weight", 0.7, "--hold-out", 0.3, "--patience", 2, "--group-by-length")
    trained = run_json("finetune", small, *options, *own, "-o", tuned)
    assert trained["settings"]["teacher"] == str(parent)
    assert (trained["settings"]["teacher_weight"], trained["settings"]["group_by_length"]) == (0.7, True)
    held_out = trained["train"]["held_out"]
    assert held_out["step"] in [check["step"] for check in held_out["checks"]]
    card = (tuned / "README.md").read_text()
    assert f"The weights after step {held_out['step']}: of {len(held_out['checks'])} that were tried" in card
    other = model.parent / "other"
    shutil.copytree(parent, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["renamed"] = vocabulary.pop(max(vocabulary, key=vocabulary.get))
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused = run("finetune", small, *options, "--teacher", other, "-o", model.parent / "refused")
    assert refused.exit_code == 1
    assert "has another vocabulary" in " ".join(refused.stderr.split())
    assert not (model.parent / "refused").exists()


@pytest.fixture
def glue_folder(tmp_path: Path) -> Path:
    """Give a folder with a tiny sst2 in the hub's schema."""
    from datasets import Dataset

    folder = tmp_path / "glue"
    folder.mkdir()
    parts = []
    for split, count in (("train", 24), ("validation", 12)):
        sentences = [f"{'ab' if i % 2 else 'ba'} c{'de' * (i % 3)}" for i in range(count)]
        rows = {"sentence": sentences, "label": [i % 2 for i in range(count)], "idx": list(range(count))}
        Dataset.from_dict(rows).to_parquet(folder / f"{split}.parquet")
        parts.append(f"  - split: {split}\n    path: {split}.parquet\n")
    head = f"---\nconfigs:\n- config_name: sst2\n  data_files:\n{''.join(parts)}---\n"
    (folder / "README.md").write_text(head)
    return folder


BAD: list[tuple[tuple[str, ...], int, str]] = [
    (("compress", "no-such-folder/at-all", "-o", "{out}"), 1, "neither a model folder nor a hub name"),
    (("compress", "{dir}/missing.safetensors", "-o", "{out}"), 1, "does not exist"),
    (("compress", "{dir}/two.safetensors", "-o", "{out}"), 1, "holds 2 tables"),
    (("compress", "{dir}/two.safetensors:c", "-o", "{out}"), 1, "has no tensor 'c'"),
    (("compress", "{dir}/nan.npy", "-o", "{out}"), 1, "nan in row 7 of 400"),
    (("compress", "{dir}/integers.npy", "-o", "{out}"), 1, "give one table"),
    (("compress", "{dir}/broken.safetensors", "-o", "{out}"), 1, "cannot be read"),
    (("compress", "{table}", "--keep", "0", "-o", "{out}"), 2, "outside \\(0, 1\\]"),
    (("compress", "{table}", "--keep", "1.5", "-o", "{out}"), 2, "outside \\(0, 1\\]"),
    (("compress", "{table}", "--keep", "0.01", "-o", "{out}"), 1, "the smallest is keep_ratio 0.04417"),
    (("compress", "{table}", "--budget", "100", "-o", "{out}"), 1, "the smallest is"),
    (("compress", "{table}", "--budget", "8 bananas", "-o", "{out}"), 2, "is not a size"),
    (("compress", "{table}", "-k", "401", "-o", "{out}"), 2, "more than the 400 rows"),
    (("compress", "{table}", "-k", "many", "-o", "{out}"), 2, "n_subspaces"),
    (("compress", "{table}", "--method", "pq", "-o", "{out}"), 2, "choose one of subspaces, svd, int8, int4, auto"),
    (("compress", "{table}", "--method", "int8", "--keep", "0.5", "-o", "{out}"), 2, "has one size"),
    (("compress", "{table}", "--keep", "0.5", "--budget", "1MB", "-o", "{out}"), 2, "are given"),
    (("compress", "{table}", "--plan", "{dir}/none.json", "-o", "{out}"), 1, "plan .* does not exist"),
    (("compress", "{table}", "-o", "{dir}/full"), 1, "exists and is not empty"),
    (("densify", "{table}", "-o", "{out}"), 1, "holds no compressed table"),
    (("evaluate", "{dir}/empty", "--task", "sst2", "--data", "{dir}"), 1, "has no tokenizer"),
    (("evaluate", "{table}", "--task", "sst3", "--data", "{dir}"), 2, "sst2"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD, ids=[" ".join(arguments) for arguments, _, _ in BAD])
def test_bad_input_says_what_is_wrong_and_writes_nothing(
    table: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    """Exit code, one clear message on stderr, no traceback, and no file anywhere that was not there before."""
    folder = table.parent
    rows = torch.from_numpy(np.load(table))
    save_file({"a": rows, "b": rows.clone()}, folder / "two.safetensors")
    spoiled = rows.clone()
    spoiled[7, 3] = torch.nan
    np.save(folder / "nan.npy", spoiled.numpy())
    np.save(folder / "integers.npy", np.arange(6))
    (folder / "broken.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{not json}")
    (folder / "full").mkdir()
    (folder / "full" / "precious.txt").write_text("kept")
    (folder / "empty").mkdir()
    before = files(folder)
    places = {"dir": folder, "table": table, "out": folder / "out"}
    result = run(*(argument.format(**places) for argument in arguments))
    assert result.exit_code == code, result.output

    assert re.search(message, " ".join(result.stderr.split())), result.stderr
    assert "Traceback" not in result.output
    assert files(folder) == before


def test_a_compressed_folder_is_not_compressed_again(model: Path) -> None:
    """Compressing twice would lose twice; the message names the way out."""
    run_json("compress", model, "-o", model.parent / "small")
    result = run("compress", model.parent / "small", "-o", model.parent / "smaller")
    assert result.exit_code == 1
    assert "is compressed already" in result.stderr
    assert not (model.parent / "smaller").exists()


def test_version_and_help_of_every_command() -> None:
    """Each command's help ends with an example that starts with its own name."""
    assert run("--version").stdout.strip() == f"foldflat {foldflat.__version__}"
    for command in (
        "demo",
        "plan",
        "compress",
        "densify",
        "finetune",
        "evaluate",
        "inspect",
        "sweep",
        "certify",
        "report",
    ):
        text = run(command, "--help")
        assert text.exit_code == 0
        assert f"foldflat {command}" in " ".join(text.stdout.split())
    assert run("no-such-command").exit_code == 2
