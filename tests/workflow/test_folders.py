"""Whole folders: a sentence encoder stays one, and everything beside the weights comes along."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as parts
from tests.tiny import save_tiny_folder

from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import TargetExistsError, UnsupportedModelError
from foldflat.workflow.folders import compress_folder, densify_folder
from foldflat.workflow.sources import open_source

SENTENCES = ["ab cd", "de fa bu ka", "zz"]


def save_encoder(folder: Path, inner_name: str) -> Path:
    """Save a sentence encoder of a small BERT, with its transformer in a folder of a given name."""
    save_tiny_folder(folder / "bert", "bert", head="base", vocabulary=200)
    word = parts.Transformer(str(folder / "bert"))
    encoder = SentenceTransformer(
        modules=[word, parts.Pooling(word.get_embedding_dimension()), parts.Normalize()], device="cpu"
    )
    target = folder / "encoder"
    encoder.save(str(target))
    if inner_name:
        modules = json.loads((target / "modules.json").read_text())
        inner = target / inner_name
        inner.mkdir()
        for file in [file for file in target.iterdir() if file.is_file()]:
            if file.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
                file.rename(inner / file.name)
        modules[0]["path"] = inner_name
        (target / "modules.json").write_text(json.dumps(modules))
    return target


def vectors_in_new_process(folders: list[Path], output: Path) -> list[np.ndarray]:
    """Encode the sentences with every folder, in one process elsewhere."""
    script = (
        "import sys, foldflat, numpy\nfrom sentence_transformers import SentenceTransformer\n"
        f"found = [SentenceTransformer(folder, device='cpu').encode({SENTENCES!r}) for folder in sys.argv[2:]]\n"
        "numpy.save(sys.argv[1], numpy.stack(found))\n"
    )
    command = [sys.executable, "-c", script, str(output), *map(str, folders)]
    subprocess.run(command, check=True, cwd="/", capture_output=True)
    return list(np.load(output))


def test_a_sentence_encoder_gives_the_same_vectors_after_compressing_and_reloading(tmp_path: Path) -> None:
    """Pooling and normalising are copied, so vectors equal those of the original with the new model put in."""
    expected, places = [], [tmp_path / "top", tmp_path / "inner"]
    for place, inner_name in zip(places, ["", "0_Transformer"], strict=True):
        source = save_encoder(place, inner_name)
        result = compress_folder(str(source), place / "small", EmbeddingRecipe(keep_ratio=0.5, n_subspaces=2))
        by_hand = SentenceTransformer(str(source), device="cpu")
        before = by_hand.encode(SENTENCES)
        by_hand[0].model = result.model
        expected.append(by_hand.encode(SENTENCES))
        assert not np.allclose(expected[-1], before, atol=1e-4), "a compressed table changes vectors"

    reloaded = vectors_in_new_process([place / "small" for place in places], tmp_path / "vectors.npy")

    for place, found, wanted in zip(places, reloaded, expected, strict=True):
        assert np.array_equal(found, wanted)
        densify_folder(str(place / "small"), place / "plain")
        plain = SentenceTransformer(str(place / "plain"), device="cpu").encode(SENTENCES)
        np.testing.assert_allclose(plain, wanted, atol=1e-5)


def test_companions_are_copied_and_weights_are_not(tmp_path: Path) -> None:
    """Tokenizer, processor and licence files come along; other weight files and a stale manifest do not."""
    source = tmp_path / "model"
    save_tiny_folder(source, "roberta")
    for name in ("LICENSE", "preprocessor_config.json", "merges.txt"):
        (source / name).write_text("{}")
    for name in ("pytorch_model.bin", "tf_model.h5", "training_args.bin", "model.safetensors.index.json"):
        (source / name).write_bytes(b"stale")
    (source / "onnx").mkdir()
    (source / "onnx" / "model.json").write_text("stale")
    compress_folder(str(source), tmp_path / "small", EmbeddingRecipe())
    names = {file.name for file in (tmp_path / "small").iterdir()}
    assert {"LICENSE", "preprocessor_config.json", "merges.txt", "tokenizer.json", "README.md"} <= names
    assert not names & {
        "pytorch_model.bin",
        "tf_model.h5",
        "training_args.bin",
        "model.safetensors",
        "model.safetensors.index.json",
        "onnx",
    }


def test_an_existing_target_is_refused_before_any_work(tmp_path: Path) -> None:
    """The check comes before loading, so even a wrong model cannot cost the user a wait."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("kept")
    with pytest.raises(TargetExistsError, match="--overwrite"):
        compress_folder("no-such-model", tmp_path / "full", EmbeddingRecipe())


def test_overwrite_replaces_the_whole_folder(tmp_path: Path) -> None:
    """Nothing of the old folder stays behind."""
    torch.manual_seed(0)
    np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32))
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    compress_folder(str(tmp_path / "table.npy"), target, EmbeddingRecipe(), overwrite=True)
    assert not (target / "old").exists()
    assert open_source(str(target)).kind == "foldflat"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "table.npy"]


def test_a_static_sentence_encoder_is_refused_with_a_way_out(tmp_path: Path) -> None:
    """A folder without a transformer inside is named as such."""
    (tmp_path / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}])
    )
    with pytest.raises(UnsupportedModelError, match="StaticEmbedding, without a transformer"):
        open_source(str(tmp_path))
