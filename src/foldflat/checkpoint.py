"""Folders on disk: written beside and renamed, verified when read, never pickled."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from foldflat.embedding.base import CompressedEmbedding
from foldflat.embedding.build import embedding_from_spec
from foldflat.errors import (
    CheckpointError,
    PlanMismatchError,
    TargetExistsError,
)
from foldflat.model import hub
from foldflat.model.manifest import FOLDER_FORMAT, read_manifest, verified, write_manifest
from foldflat.model.removal import resized
from foldflat.pipeline import Result, build_empty

__all__ = ["load", "save", "writing_folder"]


def save(
    result: Result | nn.Module,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write a compressed model to a folder that `load` and, for transformers models, `from_pretrained` read.

    The folder is written beside and renamed: it is there whole, or not at all.

    Args:
        result: a Result, or a model that holds compressed embeddings.
        path: folder to make.
        overwrite: replace a folder that exists.
        extra: called with the unfinished folder, to add files such as a tokenizer.

    Raises:
        TargetExistsError: the folder exists and is not empty.
        CheckpointError: it cannot be written, for one because the disk is full.
        PlanMismatchError: the model holds nothing that foldflat compressed.
    """
    with writing_folder(path, overwrite=overwrite) as folder:
        manifest = save_model_files(result, folder)
        if extra is not None:
            extra(folder)
        write_manifest(folder, manifest)


def save_model_files(result: Result | nn.Module, folder: Path) -> dict[str, Any]:
    """Write weights and config into an existing folder; return the manifest that `write_manifest` completes."""
    model = result.model if isinstance(result, Result) else result
    tables, pruned = compressed_tables(model), hub.pruned_layout(model)
    if not tables and pruned is None:
        raise PlanMismatchError(
            f"{type(model).__name__} holds no compressed embedding and was not pruned, so there is nothing for "
            "foldflat to save; hint: save it with its own library"
        )
    manifest: dict[str, Any] = {"format": FOLDER_FORMAT, "class": type(model).__name__, "tables": tables}
    if pruned is not None:
        manifest["pruned"] = pruned
    if isinstance(result, Result):
        manifest |= {"plan": result.plan.to_dict(), "report": result.report}
    if hub.is_pretrained(model):
        with hub.quiet_transformers():
            model.save_pretrained(folder)  # type: ignore[operator]
    else:
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        if tables:
            manifest["dtype"] = str(_row_dtype(model)).removeprefix("torch.")
        save_file(_without_aliases(tensors), folder / hub.WEIGHTS_NAME, metadata={"format": "pt"})
    return manifest


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Return the model of a folder that `save` wrote, after comparing every file with its checksum.

    Args:
        path: the folder.
        model: a fresh instance of the user's own class, for torch modules other than transformers'; it is filled
            and returned. Bare tables and transformers models need none.

    Raises:
        ModelNotFoundError: no such folder, or it was not written by foldflat.
        CheckpointError: a file is missing, truncated or altered.
        FormatVersionError: the folder was written by a newer foldflat.
        PlanMismatchError: `model` is needed and absent, or of another structure.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    with verified(folder, manifest):
        return _load_verified(folder, manifest, model)


def _load_verified(folder: Path, manifest: dict[str, Any], model: nn.Module | None) -> nn.Module:
    inner = folder / manifest.get("inner", "")
    if (inner / "config.json").is_file():
        return _load_pretrained(inner, manifest)
    tables, pruned = manifest["tables"], manifest.get("pruned")
    dtype = getattr(torch, manifest.get("dtype", "float32"))
    if tables and tables[0]["names"] == [""]:
        return _filled(embedding_from_spec(tables[0]["spec"], dtype=dtype), folder)
    if model is None:
        raise PlanMismatchError(
            f"{folder} holds a {manifest['class']}, a class of your own; "
            f"hint: foldflat.load(path, model={manifest['class']}(..))"
        )
    try:
        if pruned is not None:
            model = hub.adapt(resized(model, pruned["shapes"], pruned["attributes"]), [], pruned)
        return _filled(build_empty(model, tables, dtype), folder)
    except (AttributeError, KeyError) as error:
        raise PlanMismatchError(f"{type(model).__name__} does not fit {folder}: {error}") from error


def compressed_tables(model: nn.Module) -> list[dict[str, Any]]:
    """Return names, tied heads and layout of every compressed embedding in a model."""
    from foldflat.embedding.base import CompressedHead

    tables: dict[int, dict[str, Any]] = {}
    named = list(model.named_modules(remove_duplicate=False))
    for name, module in named:
        if isinstance(module, CompressedEmbedding):
            entry = tables.setdefault(id(module), {"names": [], "heads": [], "spec": module.spec()})
            entry["names"].append(name)
    for name, module in named:
        if isinstance(module, CompressedHead):
            tables[id(module.embedding)]["heads"].append(name)
    return list(tables.values())


@contextmanager
def writing_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder to fill beside `path`, and put it in place when the block ends without an error.

    Raises:
        TargetExistsError: `path` exists and is not an empty folder, and `overwrite` is false.
        CheckpointError: the disk is full or not writable; nothing is left behind.
    """
    target = Path(path).absolute()
    check_target(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield staging
        _sync(staging)
        _swap(staging, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, CheckpointError | TargetExistsError) or not _is_disk_error(error):
            raise
        raise _cannot_write(target, error) from error
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise TargetExistsError where writing to `path` would lose something."""
    target = Path(path)
    if target.is_file():
        raise TargetExistsError(f"{target} is a file; hint: name a folder")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise TargetExistsError(f"{target} exists and is not empty; hint: --overwrite (overwrite=True) replaces it")


def _load_pretrained(folder: Path, manifest: dict[str, Any]) -> nn.Module:
    transformers = hub.require_transformers()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = (config.get("architectures") or [manifest["class"]])[0]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise PlanMismatchError(f"{folder} holds a {name}, which transformers {transformers.__version__} does not know")
    with hub.quiet_transformers():
        model: nn.Module = kind.from_pretrained(folder)
    return model


def _filled(model: nn.Module, folder: Path) -> nn.Module:
    try:
        tensors = load_file(folder / hub.WEIGHTS_NAME)
    except SafetensorError as error:
        raise CheckpointError(
            f"{folder / hub.WEIGHTS_NAME} is damaged ({error}); hint: copy the folder again"
        ) from error
    expected = model.state_dict()
    absent = [name for name in expected if name not in tensors]
    aliases = {name: other for name in absent if (other := _alias(name, expected, tensors))}
    # fresh memory: tensors mapped from a file are misaligned, which changes the last bits of products
    complete = {name: tensor.clone() for name, tensor in tensors.items()}
    complete |= {name: complete[other] for name, other in aliases.items()}
    try:
        model.load_state_dict(complete)
    except RuntimeError as error:
        raise PlanMismatchError(f"{type(model).__name__} does not fit {folder}: {error}") from error
    return model.eval()


def _alias(name: str, expected: dict[str, Any], stored: dict[str, Any]) -> str | None:
    tensor = expected[name]
    same = (other for other in stored if other in expected and expected[other].data_ptr() == tensor.data_ptr())
    return next(same, None)


def _without_aliases(tensors: dict[str, Any]) -> dict[str, Any]:
    kept: dict[tuple[int, Any], str] = {}
    for name, tensor in tensors.items():
        kept.setdefault((tensor.data_ptr() if tensor.numel() else id(tensor), tensor.shape), name)
    return {name: tensors[name] for name in kept.values()}


def _row_dtype(model: nn.Module) -> torch.dtype:
    return next(module.anchor.dtype for module in model.modules() if isinstance(module, CompressedEmbedding))


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def _swap(staging: Path, target: Path) -> None:
    staging.chmod(0o755)
    if not target.exists():
        staging.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    old.rmdir()
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _is_disk_error(error: Exception) -> bool:
    if isinstance(error, SafetensorError):
        return True
    return isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EIO,
    )


def _cannot_write(target: Path, error: Exception) -> CheckpointError:
    try:
        free = shutil.disk_usage(target.parent).free
    except OSError:
        free = 0
    return CheckpointError(
        f"{target} cannot be written ({error}), {free} bytes are free there; nothing was left behind"
    )
