"""foldflat.json: what a delivered folder holds, and the checksum of every file in it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from foldflat.errors import CheckpointError, FormatVersionError, ModelNotFoundError

__all__ = [
    "FOLDER_FORMAT",
    "MANIFEST",
    "file_sha256",
    "manifest_of_file",
    "read_manifest",
    "refresh_checksums",
    "verified",
    "verify_files",
    "write_manifest",
]

FOLDER_FORMAT = 1
MANIFEST = "foldflat.json"

_verified: ContextVar[frozenset[Path]] = ContextVar("verified", default=frozenset())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the content of foldflat.json.

    Raises:
        ModelNotFoundError: no such folder, or foldflat did not write it.
        CheckpointError: the file is damaged.
        FormatVersionError: the folder was written by a newer foldflat.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is not a folder; hint: give a folder that `foldflat.save` wrote")
    file = folder / MANIFEST
    if not file.is_file():
        raise ModelNotFoundError(f"{folder} has no {MANIFEST}, so foldflat did not write it")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged ({error}); hint: copy the folder again") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(found, int):
        raise CheckpointError(f"{file} is damaged: it has no format number; hint: copy the folder again")
    if found > FOLDER_FORMAT:
        raise FormatVersionError(
            f"{folder} has format {found}, this foldflat reads up to {FOLDER_FORMAT}; hint: pip install -U foldflat"
        )
    absent = [key for key in ("files", "tables", "class") if key not in manifest]
    if absent:
        raise CheckpointError(f"{file} is damaged: it has no {absent[0]!r}; hint: copy the folder again")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write foldflat.json with the checksum of every other file in `folder`, beside and renamed."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    manifest["files"] = {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}
    _replace(folder, manifest)


def refresh_checksums(folder: Path, names: Sequence[str]) -> None:
    """Bring foldflat.json, where there is one, up to date after files of its folder were saved anew."""
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        manifest["files"] |= {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}
        _replace(folder, manifest)


def _replace(folder: Path, manifest: dict[str, Any]) -> None:
    beside = folder / f".{MANIFEST}"
    beside.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    beside.replace(folder / MANIFEST)


def verify_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise CheckpointError where a file is missing or differs from its checksum."""
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{folder} lacks {name}; hint: copy the folder again")
        # a README may be edited by hand without harm
        if file.suffix != ".md" and file.resolve() not in _verified.get() and file_sha256(file) != expected:
            raise CheckpointError(
                f"{file} ({file.stat().st_size} bytes) differs from what was saved: its SHA-256 is not "
                f"{expected[:12]}..\nhint: the file is truncated or was altered; copy the folder again"
            )


@contextmanager
def verified(folder: Path, manifest: dict[str, Any]) -> Iterator[None]:
    """Verify every file of a folder, and spare whoever verifies one of them within the block the same reading.

    Raises:
        CheckpointError: see `verify_files`.
    """
    verify_files(folder, manifest)
    token = _verified.set(frozenset((folder / name).resolve() for name in manifest["files"]))
    try:
        yield
    finally:
        _verified.reset(token)


def manifest_of_file(file: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the folder and manifest that list `file`, at most one level up; None where there is none."""
    for folder in (file.parent, file.parent.parent):
        if (folder / MANIFEST).is_file():
            manifest = read_manifest(folder)
            name = file.relative_to(folder).as_posix()
            listed = manifest["files"].get(name)
            return None if listed is None else (folder, {**manifest, "files": {name: listed}})
    return None


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
