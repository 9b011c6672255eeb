"""The state of a pruning run in several rounds: what is done is on disk, and is not done again."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from foldflat.checkpoint import load, save
from foldflat.errors import CheckpointError
from foldflat.filters.plan import FilterPlan
from foldflat.model.manifest import read_manifest
from foldflat.pipeline import Result
from foldflat.workflow.files import write_text
from foldflat.workflow.networks import Network

__all__ = ["Rounds"]


class Rounds:
    """Keep the networks that rounds end with in a folder beside the target, until the run is done."""

    def __init__(self, target: str | os.PathLike[str], task: dict[str, Any]) -> None:
        """Claim the folder.

        Args:
            target: where the result will be.
            task: JSON values that say what the run is.

        Raises:
            CheckpointError: the folder holds another run.
        """
        path = Path(target).absolute()
        self.folder = path.with_name(f".{path.name}.pruning")
        described = json.dumps(task, indent=1, sort_keys=True)
        file = self.folder / "task.json"
        if file.exists():
            if file.read_text(encoding="utf-8") != described:
                raise CheckpointError(
                    f"{self.folder} holds an unfinished run with other settings; hint: finish it with the settings in "
                    f"{file}, or delete the folder"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(file, described)

    def checkpoints(self, number: int) -> Path:
        """Return the folder for the checkpoints of a round's training."""
        return self.folder / f"training-{number}"

    def done(self, number: int, network: Network) -> Result | None:
        """Return what a round ended with, None where it has not ended."""
        folder = self.folder / f"round-{number}"
        if not folder.is_dir():
            return None
        manifest = read_manifest(folder)
        model = load(folder, model=None if network.build is None else network.build())
        return Result(model, FilterPlan.from_dict(manifest["plan"]), manifest["report"])

    def finish(self, number: int, result: Result) -> None:
        """Keep what a round ended with, and drop the checkpoints of its training."""
        save(result, self.folder / f"round-{number}")
        shutil.rmtree(self.checkpoints(number), ignore_errors=True)

    def delete(self) -> None:
        """Remove the folder; the run is done."""
        shutil.rmtree(self.folder)
