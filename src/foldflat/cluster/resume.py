"""State of a long fit on disk: one safetensors file, written beside and renamed after each pass."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from foldflat.cluster.groups import Group
from foldflat.cluster.refine import Refinement
from foldflat.cluster.trials import Trial
from foldflat.errors import CheckpointError, FormatVersionError

__all__ = ["Checkpoint"]

_FORMAT = 1


class Checkpoint:
    """Keep the state of one fit in one file."""

    def __init__(self, file: str | os.PathLike[str], task: dict[str, Any]) -> None:
        """Name the file and the fit.

        Args:
            file: where the state is kept; its folder is made.
            task: JSON values that say which table and settings the state belongs to.
        """
        self.file, self._task = Path(file), task

    def load(self) -> tuple[Refinement, list[Trial]] | None:
        """Return what was stored last, None where nothing was.

        Raises:
            CheckpointError: the file is damaged, or belongs to another table or other settings.
            FormatVersionError: a newer foldflat wrote it.
        """
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "pt") as stream:
                header = json.loads(stream.metadata()["foldflat"])
                directions = [stream.get_tensor(f"directions.{i}") for i in range(len(stream.keys()))]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.file} is damaged ({error}); hint: delete it to start anew") from error
        if header["format"] > _FORMAT:
            raise FormatVersionError(f"{self.file} has format {header['format']}, newer than {_FORMAT}; hint: upgrade")
        other = [name for name, value in self._task.items() if header["task"].get(name) != value]
        if other:
            raise CheckpointError(
                f"{self.file} belongs to another fit: its `{other[0]}` is {header['task'].get(other[0])}, "
                f"not {self._task[other[0]]}; hint: name another file, or delete it to start anew"
            )
        groups = [Group(tensor, ranks) for tensor, ranks in zip(directions, header["ranks"], strict=True)]
        state = Refinement(groups, **header["state"])
        return state, [Trial(**trial) for trial in header["trials"]]

    def store(self, state: Refinement, trials: list[Trial]) -> None:
        """Replace what was stored.

        Raises:
            CheckpointError: it cannot be written; what was stored before stays.
        """
        names = ("multiplier", "costs", "passes", "converged")
        header = {
            "format": _FORMAT,
            "task": self._task,
            "ranks": [group.ranks for group in state.groups],
            "state": {name: getattr(state, name) for name in names},
            "trials": [asdict(trial) for trial in trials],
        }
        tensors = {f"directions.{i}": group.directions.contiguous() for i, group in enumerate(state.groups)}
        beside = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, beside, metadata={"foldflat": json.dumps(header)})
            with beside.open("rb") as stream:
                os.fsync(stream.fileno())
            beside.replace(self.file)
        except (OSError, SafetensorError) as error:
            beside.unlink(missing_ok=True)
            raise CheckpointError(f"{self.file} cannot be written ({error}); what it held before is kept") from error

    def delete(self) -> None:
        """Remove the file; the fit is done."""
        self.file.unlink(missing_ok=True)
