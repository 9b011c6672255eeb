"""Sentence encoders and bare tables: cosines and neighbours, promised without labels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import save_tiny_folder
from tests.workflow.test_folders import save_encoder
from typer.testing import CliRunner

from foldflat.cli import app
from foldflat.errors import DataError, ModelNotFoundError, RecipeError
from foldflat.evaluate.sentences import MeanOfRows, encode_sentences
from foldflat.workflow.certificates import Promise, SentenceData, certify_folder
from foldflat.workflow.certificates.sentences import nearest

pytestmark = pytest.mark.xdist_group("sentences")


def run(*arguments: object) -> Any:
    """Run a command that succeeds as a user would type it."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 150 texts, two of them twice."""
    draw = np.random.default_rng(0)
    words = ["ab", "cd", "de", "fa", "bu", "ka", "mo", "ti", "su"]
    lines = [" ".join(draw.choice(words, 12)) for _ in range(148)]
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join([*lines, *lines[:2]]))
    return file


def test_a_sentence_encoder_is_certified_by_its_vectors_and_neighbours(texts: Path, tmp_path: Path) -> None:
    """The mean is that of the cosines of both; a collection is searched with both; another encoder is refused."""
    from sentence_transformers import SentenceTransformer

    source, small = save_encoder(tmp_path / "source", ""), tmp_path / "small"
    run("compress", source, "--keep", 0.8, "-o", small, "--json")
    options = ("--texts", texts, "--ledger", tmp_path / "ledger", "--json")
    found = run("certify", source, small, *options, "--max-drop", 0.5)
    lines = list(dict.fromkeys(texts.read_text().splitlines()))
    assert found["examples"] == len(lines) == 148
    one, other = (SentenceTransformer(str(folder), device="cpu").encode(lines) for folder in (source, small))
    assert found["mean"] == pytest.approx(1 - (one * other).sum(1).mean(), abs=1e-5)
    assert found["risk"] == "cosine error"
    assert found["data"]["repeated"] == 2
    assert "2 that repeat another did not count: this is about different examples" in found["words"]
    found = run("certify", source, small, *options, "--collection", texts, "--max-drop", 0.9)
    assert found["risk"] == "neighbours lost"
    assert "10 neighbours of 150 texts of texts.txt" in found["words"]
    assert found["earlier_uses"] == 1
    (more := tmp_path / "texts.txt").write_text(f"{texts.read_text()}\nsu ti mo\n")
    elsewhere = run("certify", source, small, *options, "--collection", more, "--max-drop", 0.9)
    assert elsewhere["earlier_uses"] == 2, "another collection is another question"
    stranger = save_encoder(tmp_path / "stranger", "")
    file = stranger / "model.safetensors"
    from safetensors.torch import save_file

    tensors = load_file(file)
    tensors["embeddings.word_embeddings.weight"][5] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"was not made of .*stranger/encoder'"):
        certify_folder(str(stranger), small, SentenceData(str(texts)), Promise(0.5), progress=False)


def test_a_bare_table_is_certified_by_the_means_of_its_rows(texts: Path, tmp_path: Path) -> None:
    """Special and unknown tokens are left out, and so are texts of nothing else."""
    folder = tmp_path / "model"
    save_tiny_folder(folder, "bert", head="base", vocabulary=200)
    table = f"{folder / 'model.safetensors'}:embeddings.word_embeddings.weight"
    small = tmp_path / "small"
    run("compress", table, "--keep", 0.8, "-o", small, "--json")
    more = tmp_path / "more.txt"
    more.write_text(f"{texts.read_text()}\n\u4e00\u4e01\n")
    found = run("certify", table, small, "--texts", more, "--max-drop", 0.6, "--ledger", tmp_path / "ledger", "--json")
    assert found["examples"] == 148
    assert 0 < found["mean"] < 0.5
    with pytest.raises(ModelNotFoundError, match=r"holds a table, .* is none"):
        certify_folder(str(folder), small, SentenceData(str(texts)), Promise(0.5), progress=False)


def test_means_of_rows_hold_one_batch_at_a_time() -> None:
    """A large collection would not fit otherwise; a text without a token is zero, wherever it stands."""
    table, largest = torch.nn.Embedding(10, 4), 0

    def look_up(rows: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(rows))
        found: torch.Tensor = table(rows)
        return found

    def tokenizer(sentences: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[int(digit) for digit in sentence] for sentence in sentences]}

    tokenizer.all_special_ids = [0]  # type: ignore[attr-defined]
    lines = ["12", "0", "345", "", *(str(number) for number in range(1001, 1300))]
    vectors = encode_sentences(MeanOfRows(look_up, tokenizer), lines)  # type: ignore[arg-type]
    assert largest < 500
    weights = table.weight.detach().numpy()
    wanted = [
        weights[[int(d) for d in line if d != "0"]].mean(0) if line.strip("0") else weights[0] * 0 for line in lines
    ]
    assert np.allclose(vectors, wanted, atol=1e-6)


def test_neighbours_are_those_of_largest_cosine() -> None:
    """Lengths are of no account; a collection that is too small is refused."""
    draw = np.random.default_rng(1)
    queries, collection = draw.normal(size=(30, 6)), draw.normal(size=(40, 6)) * draw.uniform(1, 9, (40, 1))
    cosines = queries @ (collection / np.linalg.norm(collection, axis=1, keepdims=True)).T
    wanted = np.argsort(-cosines, axis=1)[:, :4]
    assert np.array_equal(np.sort(nearest(queries, collection, 4), axis=1), np.sort(wanted, axis=1))
    with pytest.raises(RecipeError, match="0 neighbours"):
        SentenceData("x", neighbours=0)


def test_vectors_that_are_no_numbers_have_no_neighbours(texts: Path, tmp_path: Path) -> None:
    """Two models that both overflow would find the same ones, by accident."""
    source = save_encoder(tmp_path / "source", "")
    data = SentenceData(str(texts), collection=str(texts))
    encoder, _, examples = data.open(str(source), str(source))
    with torch.no_grad():
        encoder[0].auto_model.embeddings.word_embeddings.weight[:] = float("nan")
    with pytest.raises(DataError, match="the vectors of 148 of 148 texts are NaN or infinite, the first is number 0"):
        examples.outputs(encoder)


def test_a_small_collection_is_refused(texts: Path, tmp_path: Path) -> None:
    """With how many texts it has."""
    few = tmp_path / "few.txt"
    few.write_text("ab\ncd\n")
    source = save_encoder(tmp_path / "source", "")
    data = SentenceData(str(texts), collection=str(few))
    with pytest.raises(DataError, match="2 texts to find 10 neighbours in"):
        data.open(str(source), str(source))
