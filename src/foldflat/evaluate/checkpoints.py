"""The folder of a training run that can be continued: which run it belongs to, and its last whole checkpoint."""

import json
from pathlib import Path
from typing import Any

from foldflat.errors import CheckpointError

__all__ = ["claim_folder", "last_checkpoint", "steps_done"]

_IDENTITY = "run.json"
_STATE = "trainer_state.json"  # Trainer writes it last, so a checkpoint that has it is whole


def claim_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Write what identifies a run into its folder, or check that it is what stands there.

    Raises CheckpointError where another run's checkpoints are there, or something else.
    """
    file = folder / _IDENTITY
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.is_file():
            if any(folder.iterdir()):
                raise CheckpointError(f"{folder} holds other files\nhint: checkpoints need a folder of their own")
            _write(file, identity)
            return
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{folder} cannot hold checkpoints: {error}\nhint: give another folder") from error
    different = [key for key in identity if found.get(key) != identity[key]]
    if different:
        key = different[0]
        raise CheckpointError(
            f"{folder} holds the checkpoints of another run: `{key}` was {found.get(key)!r}, is {identity[key]!r}\n"
            "hint: give another folder, or delete this one to start anew"
        )


def last_checkpoint(folder: Path) -> str | None:
    """Return the checkpoint with the most steps that was written whole, or None."""
    whole = [path for path in folder.glob("checkpoint-*") if steps_done(path) is not None]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def steps_done(checkpoint: Path) -> tuple[int, int] | None:
    """Return the steps that were done and those of the whole run; None for a checkpoint that is not whole."""
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        return int(state["global_step"]), int(state["max_steps"])
    except (OSError, ValueError, KeyError):
        return None


def _write(file: Path, values: dict[str, Any]) -> None:
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    beside.replace(file)
