"""The folder of a sweep: what is finished, what failed, what is being computed; safe for several sweeps at once."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foldflat.errors import CheckpointError, FormatVersionError, MissingDependencyError, TargetExistsError
from foldflat.workflow.files import write_json
from foldflat.workflow.sweep.jobs import CELL_FORMAT, Job

__all__ = ["ResultsFolder"]

_VERSION = "sweep.json"
_KINDS = ("cells", "errors", "locks", "parents")


class ResultsFolder:
    """Keep cells, parents and errors by key. Every file is written beside and renamed.

    A job that is being computed is claimed by an advisory lock on a file, which the kernel releases when its process
    ends in whatever way.

    Args:
        path: made where it is missing.

    Raises:
        TargetExistsError: it holds something else.
        FormatVersionError: it was written by a foldflat whose cells are of another format.
        CheckpointError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._check()
            for kind in _KINDS:
                (self.path / kind).mkdir(exist_ok=True)
        except (CheckpointError, TargetExistsError):
            raise
        except FileExistsError as error:
            raise TargetExistsError(f"{self.path} is a file\nhint: name a folder") from error
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be written: {error}") from error

    def _check(self) -> None:
        version = self.path / _VERSION
        if not version.exists():
            # those with a dot are what an interrupted write leaves
            others = sorted(item.name for item in self.path.iterdir() if not item.name.startswith("."))
            if others and not version.exists():
                raise TargetExistsError(
                    f"{self.path} is no folder of a sweep and holds {others[0]!r}\nhint: name a new folder"
                )
            write_json(version, {"format": CELL_FORMAT})
        found = _read(version).get("format")
        if found != CELL_FORMAT:
            raise FormatVersionError(
                f"{self.path} has cells of format {found}, this foldflat computes format {CELL_FORMAT}; nothing was "
                "changed\nhint: name a new folder, or install the foldflat that wrote this one"
            )

    def finished(self, job: Job) -> dict[str, Any] | None:
        """Return what a job gave, None while it is not finished.

        Raises:
            CheckpointError: its file is damaged.
        """
        if not self.has(job):
            return None
        file = self._result(job)
        values = _read(file)
        if values.get("key") != job.key:
            raise CheckpointError(f"{file} is damaged: it is of another key\nhint: delete it, and it is computed again")
        return values

    def has(self, job: Job) -> bool:
        """Say whether a job is finished."""
        return self._result(job).is_file()

    def parent_folder(self, job: Job) -> Path:
        """Return where the classifier that a parent's job makes is kept."""
        return self.path / "parents" / job.key

    @contextmanager
    def claimed(self, job: Job, *, wait: bool) -> Iterator[bool]:
        """Claim a job while the block runs; give whether it is ours, which waiting makes sure of.

        Raises:
            CheckpointError: the file system has no locks.
        """
        filelock = _filelock()
        # a soft lock, filelock's own way out, outlives a process that was killed
        lock = filelock.FileLock(self._file("locks", job).with_suffix(".lock"), fallback_to_soft=False)
        try:
            lock.acquire(blocking=wait)
        except filelock.Timeout:
            yield False
            return
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be locked: {error}\nhint: a folder on a file system with locks (flock)"
            ) from error
        try:
            self._clear(job)
            yield True
        finally:
            lock.release()

    def _clear(self, job: Job) -> None:
        """Remove what a killed process left half written; only the holder of the claim may."""
        import shutil

        for kind in _KINDS:
            for left in (self.path / kind).glob(f".{job.key}.*"):
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()

    def write_cell(self, job: Job, figures: dict[str, Any], run: dict[str, Any]) -> None:
        """Keep what a cell gave and, apart from it, how the run went; forget that it failed before."""
        values = {"key": job.key, "settings": job.settings, "figures": figures, "run": run}
        write_json(self._file("cells", job), values)
        self.forget_error(job)

    def forget_error(self, job: Job) -> None:
        """Remove the error that a job left in an earlier run."""
        self._file("errors", job).unlink(missing_ok=True)

    def write_error(self, job: Job, error: dict[str, str]) -> None:
        """Keep why a job failed."""
        write_json(self._file("errors", job), {"key": job.key, "label": job.label, "settings": job.settings, **error})

    def write_results(self, grid: str, rows: list[dict[str, Any]]) -> Path:
        """Write results.json, the text of a grid and the figures of all its finished cells; return the file."""
        file = self.path / "results.json"
        write_json(file, {"format": CELL_FORMAT, "grid": grid, "cells": rows})
        return file

    def _result(self, job: Job) -> Path:
        return self.parent_folder(job) / "parent.json" if job.kind == "parent" else self._file("cells", job)

    def _file(self, kind: str, job: Job) -> Path:
        return self.path / kind / f"{job.key}.json"


def _filelock() -> Any:
    try:
        import filelock
    except ImportError:
        raise MissingDependencyError('a sweep needs filelock\nhint: pip install "foldflat[eval]"') from None
    return filelock


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged ({error})\nhint: delete it, and it is computed again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} is damaged: it holds no object\nhint: delete it, and it is computed again")
    return values
