"""Folders that are damaged, newer, in the way, or cut off while they are written."""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForMaskedLM

import foldflat
from foldflat import EmbeddingRecipe, checkpoint
from foldflat.errors import (
    CheckpointError,
    FoldflatError,
    FormatVersionError,
    ModelNotFoundError,
    PlanMismatchError,
    TargetExistsError,
)
from tests.test_cli import run
from tests.tiny import planted_table, save_tiny_folder, tiny_inputs, tiny_model

WEIGHTS = "model.foldflat.safetensors"
RECIPE = EmbeddingRecipe(n_subspaces=2)


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Give a saved bare table."""
    foldflat.save(foldflat.compress(planted_table(200, 16, 3, 4)[0], RECIPE), tmp_path / "table")
    return tmp_path / "table"


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """Give a saved transformers model."""
    foldflat.save(foldflat.compress(tiny_model("bert"), RECIPE), tmp_path / "model")
    return tmp_path / "model"


def flip(file: Path, position: int = -1) -> None:
    """Change one bit of a file."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return a damage that edits a JSON file."""

    def apply(file: Path) -> None:
        values = json.loads(file.read_text())
        change(values)
        file.write_text(json.dumps(values))

    return apply


DAMAGES: list[tuple[str, Callable[[Path], object], type[FoldflatError], str]] = [
    (WEIGHTS, flip, CheckpointError, "differs from what was saved"),
    (WEIGHTS, lambda file: flip(file, 20), CheckpointError, "differs from what was saved"),
    (WEIGHTS, lambda file: os.truncate(file, file.stat().st_size - 9), CheckpointError, "truncated"),
    (WEIGHTS, lambda file: os.truncate(file, 0), CheckpointError, r"\(0 bytes\)"),
    (WEIGHTS, Path.unlink, CheckpointError, f"lacks {WEIGHTS}"),
    ("foldflat.json", Path.unlink, ModelNotFoundError, "foldflat did not write it"),
    ("foldflat.json", lambda file: os.truncate(file, 50), CheckpointError, "is damaged"),
    ("foldflat.json", lambda file: file.write_text("[]"), CheckpointError, "no format number"),
    ("foldflat.json", edit(lambda values: values.pop("files")), CheckpointError, "no 'files'"),
    ("foldflat.json", edit(lambda values: values.update(format=2)), FormatVersionError, "format 2, .* up to 1"),
    (
        "foldflat.json",
        edit(lambda values: values["tables"][0]["spec"].update({"class": "WaveletEmbedding"})),
        FormatVersionError,
        "'WaveletEmbedding'; this foldflat knows",
    ),
    (
        "foldflat.json",
        edit(lambda values: values["tables"][0]["spec"].update(d=17)),
        PlanMismatchError,
        "does not fit",
    ),
]


@pytest.mark.parametrize(("name", "damage", "kind", "message"), DAMAGES, ids=[d[3] for d in DAMAGES])
def test_a_damaged_table_is_refused(
    saved: Path, name: str, damage: Callable[[Path], object], kind: type[FoldflatError], message: str
) -> None:
    """One bit, one byte, one file or one number that is not what was saved: an error that says where."""
    damage(saved / name)
    with pytest.raises(kind, match=message):
        foldflat.load(saved)


def test_a_note_in_the_readme_does_no_harm(saved: Path) -> None:
    """The model card is for people to edit."""
    (saved / "README.md").write_text("Use with care.")
    foldflat.load(saved)


@pytest.mark.parametrize("loader", [foldflat.load, AutoModelForMaskedLM.from_pretrained, AutoModel.from_pretrained])
@pytest.mark.parametrize(
    ("damage", "message"),
    [(flip, "differs from what"), (lambda f: os.truncate(f, 1000), "truncated"), (Path.unlink, WEIGHTS)],
    ids=["flipped", "truncated", "missing"],
)
def test_a_damaged_model_is_refused_by_every_loader(
    pretrained: Path, loader: Callable[[Path], nn.Module], damage: Callable[[Path], object], message: str
) -> None:
    """The loading of transformers compares the checksum too."""
    damage(pretrained / WEIGHTS)
    with pytest.raises(OSError, match=message):
        loader(pretrained)


def _truncate(file: Path) -> None:
    os.truncate(file, 1000)


def _drop(file: Path) -> None:
    tensors = load_file(file)
    save_file({name: tensors[name].clone() for name in tensors if "bases.1" not in name}, file, {"format": "pt"})


def _narrow(file: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    name = next(name for name in tensors if "bases.1" in name)
    save_file({**tensors, name: tensors[name][:, 1:].contiguous()}, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [(_truncate, "is damaged"), (_drop, "lacks `.*bases.1`"), (_narrow, r"holds \[\d+, 31\] as `.*bases.1`")],
)
@pytest.mark.parametrize("loader", [AutoModelForMaskedLM, AutoModel])
def test_without_a_checksum_a_table_is_whole_or_refused(
    pretrained: Path, loader: Any, damage: Callable[[Path], None], message: str
) -> None:
    """A folder without foldflat.json, as a hub's cache holds it: transformers would draw the missing part at random."""
    (pretrained / "foldflat.json").unlink()
    loader.from_pretrained(pretrained)
    damage(pretrained / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        loader.from_pretrained(pretrained)


def test_a_config_of_a_newer_format_is_refused(pretrained: Path) -> None:
    """Both loaders say what to do."""
    edit(lambda values: values["quantization_config"].update(format=2))(pretrained / "config.json")
    with pytest.raises(CheckpointError, match="differs from what was saved"):
        foldflat.load(pretrained)
    with pytest.raises(FormatVersionError, match="format 2, this version reads up to 1; hint: upgrade"):
        AutoModelForMaskedLM.from_pretrained(pretrained)


def test_saving_again_into_the_same_folder_keeps_it_loadable(pretrained: Path) -> None:
    """After further training `save_pretrained` writes over the weights, and the checksums follow."""
    model = AutoModelForMaskedLM.from_pretrained(pretrained)
    with torch.no_grad():
        model.get_input_embeddings().bases[0].mul_(2)
    model.save_pretrained(pretrained)
    inputs = tiny_inputs(tiny_model("bert"))
    for loaded in (foldflat.load(pretrained), AutoModelForMaskedLM.from_pretrained(pretrained)):
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


class Tagger(nn.Module):
    """A module of the user's own."""

    def __init__(self, words: int = 60) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 8)
        self.out = nn.Linear(8, 3)


def test_a_module_of_the_users_own_needs_a_fresh_instance(tmp_path: Path) -> None:
    """Without it, or with one that differs, the message says what is missing."""
    foldflat.save(foldflat.compress(Tagger(), RECIPE), tmp_path / "tagger")
    with pytest.raises(PlanMismatchError, match=r"load\(path, model=Tagger\(..\)\)"):
        foldflat.load(tmp_path / "tagger")
    with pytest.raises(PlanMismatchError, match="Linear does not fit"):
        foldflat.load(tmp_path / "tagger", model=nn.Linear(8, 3))
    with pytest.raises(PlanMismatchError, match="Sequential does not fit"):
        foldflat.load(tmp_path / "tagger", model=nn.Sequential(nn.Embedding(60, 8), nn.Linear(8, 3)))


def test_what_is_not_compressed_is_not_saved(tmp_path: Path) -> None:
    """Saving a plain module is its own library's business, and leaves nothing."""
    with pytest.raises(PlanMismatchError, match="holds no compressed embedding"):
        foldflat.save(Tagger(), tmp_path / "plain")
    assert not list(tmp_path.iterdir())


def test_a_target_in_use_is_kept_unless_told_otherwise(saved: Path, tmp_path: Path) -> None:
    """A full folder and a file are refused; an empty folder is used; `overwrite` replaces all of a folder."""
    model = foldflat.load(saved)
    (saved / "notes.txt").write_text("mine")
    before = files(saved)
    with pytest.raises(TargetExistsError, match="exists and is not empty"):
        foldflat.save(model, saved)
    assert files(saved) == before
    (tmp_path / "file").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(TargetExistsError, match="is a file"):
            foldflat.save(model, tmp_path / "file", overwrite=overwrite)
    (tmp_path / "empty").mkdir()
    foldflat.save(model, tmp_path / "empty")
    foldflat.save(model, saved, overwrite=True)
    assert set(files(saved)) == {"foldflat.json", WEIGHTS}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "table"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("point", ["save_file", "write_manifest", "_sync"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_run_cut_off_leaves_the_old_state(
    saved: Path, monkeypatch: pytest.MonkeyPatch, point: str, error: BaseException, exists: bool
) -> None:
    """A full disk or ctrl-C at any point of writing: no folder where none was, the old one where one was."""
    model = foldflat.load(saved)
    target = saved if exists else saved.parent / "new"
    before = files(saved.parent)

    def cut(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint, point, cut)
    with pytest.raises(CheckpointError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        foldflat.save(model, target, overwrite=True)
    if isinstance(error, OSError):
        assert "cannot be written" in str(caught.value)
        assert "bytes are free" in str(caught.value)
    assert files(saved.parent) == before
    assert [path.name for path in saved.parent.iterdir()] == ["table"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of the two renames fails: the folder that was moved aside is moved back."""
    model = foldflat.load(saved)
    before = files(saved.parent)
    rename = Path.rename

    def stubborn(self: Path, target: Path) -> Path:
        if Path(target) == saved and ".old." not in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stubborn)
    with pytest.raises(CheckpointError, match="Input/output error"):
        foldflat.save(model, saved, overwrite=True)
    assert files(saved.parent) == before


@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes are POSIX")
def test_the_command_says_that_there_is_no_space(tmp_path: Path) -> None:
    """The operating system refuses to write more than 20 kB: exit code 1, one message, nothing left behind."""
    import resource

    save_tiny_folder(tmp_path / "model", "bert")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        done = run("compress", tmp_path / "model", "-o", tmp_path / "small", "--method", "svd")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert done.exit_code == 1, done.output
    assert "cannot be written" in " ".join(done.stderr.split())
    assert isinstance(done.exception, SystemExit)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
