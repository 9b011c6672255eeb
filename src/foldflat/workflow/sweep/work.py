"""Compute one job of a sweep: fine-tune a parent, compress and train a copy of it, or choose among cells."""

import dataclasses
import importlib.metadata
import platform
import time
from pathlib import Path
from typing import Any

import torch

from foldflat.checkpoint import writing_folder
from foldflat.errors import CheckpointError, DataError
from foldflat.evaluate import (
    TrainingSettings,
    finetune_classifier,
    glue_task,
    load_classifier,
    load_tokenizer,
    model_fingerprint,
    score_classifier,
)
from foldflat.model.hub import quiet_transformers
from foldflat.pipeline import compress
from foldflat.workflow.sweep.folder import ResultsFolder, write_json
from foldflat.workflow.sweep.jobs import TRAINING_ROWS, Job
from foldflat.workflow.sweep.methods import recipe_of

__all__ = ["Outcome", "work"]

_SIZES = (
    "parameters_before",
    "parameters_after",
    "size_bytes_before",
    "size_bytes_after",
    "model_size_bytes_before",
    "model_size_bytes_after",
)
_TABLE = ("name", "method", "n_subspaces", "ranks", "energy_lost")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Say how a job ended: "computed", "found" finished, "busy" in another sweep, or "failed" with an error."""

    state: str
    seconds: float = 0.0
    error: dict[str, str] | None = None


def work(job: Job, root: str, wait: bool) -> Outcome:
    """Compute a job whose needs are finished, unless it is finished or another process computes it.

    Args:
        job: what to compute.
        root: the folder of the sweep.
        wait: until another process that computes it is done.
    """
    folder = ResultsFolder(root)
    with folder.claimed(job, wait=wait) as ours:
        if not ours:
            return Outcome("busy")
        if folder.finished(job) is not None:
            return Outcome("found")
        started = time.perf_counter()
        try:
            _COMPUTE[job.kind](job, folder)
        except Exception as error:  # noqa: BLE001 (one cell that fails, in whatever way, must not end the sweep)
            found = {"class": type(error).__name__, "message": str(error)}
            folder.write_error(job, found)
            return Outcome("failed", time.perf_counter() - started, found)
        return Outcome("computed", time.perf_counter() - started)


def _parent(job: Job, folder: ResultsFolder) -> None:
    """Fine-tune the model on the task and keep it with its scores."""
    settings = TrainingSettings(**job.settings["training"])
    made = finetune_classifier(job.model, job.settings["task"], job.data, settings=settings, progress=False)
    if model_fingerprint(job.model) != job.settings["model"]:
        raise DataError(f"{job.model!r} has changed since the sweep began\nhint: run the sweep again")
    with writing_folder(folder.parent_folder(job)) as beside, quiet_transformers():
        made.model.save_pretrained(beside)
        made.tokenizer.save_pretrained(beside)
        values = {"key": job.key, "settings": job.settings, "figures": {"score": made.metrics, **_trained(made.run)}}
        write_json(beside / "parent.json", {**values, "run": _run({"training": made.run.seconds})})
    folder.forget_error(job)


def _cell(job: Job, folder: ResultsFolder) -> None:
    """Compress a copy of the parent, fine-tune it and score it."""
    started = time.perf_counter()
    parent, settings = job.needs[0], job.settings
    place, task = folder.parent_folder(parent), settings["task"]
    tokenizer = load_tokenizer(place)
    model = load_classifier(place, glue_task(task), tokenizer=tokenizer, new_head=False)
    recipe = recipe_of(settings["method"], settings["rate"], settings["recipe_seed"])
    table: dict[str, Any] = {}
    if recipe is not None:
        result = compress(model, recipe)
        model, table = result.model, _table(result.report)
    figures, seconds = _scores(model, tokenizer, job)
    uncompressed = _figures(folder, parent)["score"]
    folder.write_cell(
        job,
        {"uncompressed": uncompressed, **figures, "table": table},
        _run({**seconds, "all": time.perf_counter() - started}),
    )


def _scores(model: Any, tokenizer: Any, job: Job) -> tuple[dict[str, Any], dict[str, float]]:
    """Train a model if the job says so, score it; return figures, and the seconds that training took."""
    settings, task = job.settings, job.settings["task"]
    figures: dict[str, Any] = {"steps": 0, "train_loss": None}
    seconds = {}
    reading = {"tokenizer": tokenizer, "max_length": settings["parent"]["max_length"]}
    if settings["training"] is None:
        figures["score"] = score_classifier(model, task, job.data, **reading)
    else:
        training = TrainingSettings(**settings["training"])
        reading["max_length"] = training.max_length
        tuned = finetune_classifier(model, task, job.data, settings=training, progress=False, tokenizer=tokenizer)
        figures |= {"score": tuned.metrics, **_trained(tuned.run)}
        seconds["training"] = tuned.run.seconds
    if settings["training_rows"] is not None:
        on_training = score_classifier(model, task, job.data, split="train", max_examples=TRAINING_ROWS, **reading)
        figures["training_score"] = on_training["headline"]
    return figures, seconds


def _choice(job: Job, folder: ResultsFolder) -> None:
    """Take the figures of the cell that does best on the training rows, the first of equals."""
    cells = {need.settings["method"]: _figures(folder, need) for need in job.needs}
    scores = {method: cell["training_score"]["value"] for method, cell in cells.items()}
    chosen = max(scores, key=lambda method: scores[method])
    folder.write_cell(job, {**cells[chosen], "chosen": chosen, "training_scores": scores}, _run({}))


_COMPUTE = {"parent": _parent, "cell": _cell, "choice": _choice}


def _figures(folder: ResultsFolder, job: Job) -> dict[str, Any]:
    found = folder.finished(job)
    if found is None:
        raise CheckpointError(f"{job.label} is gone from {folder.path}\nhint: run the sweep again")
    figures: dict[str, Any] = found["figures"]
    return figures


def _trained(run: Any) -> dict[str, Any]:
    return {"steps": run.steps, "train_loss": run.train_loss}


def _table(report: dict[str, Any]) -> dict[str, Any]:
    sizes = {name: report[name] for name in _SIZES}
    return {**sizes, "tables": [{name: table[name] for name in _TABLE} for table in report["tables"]]}


def _run(seconds: dict[str, float]) -> dict[str, Any]:
    """Return what may differ from one run to the next, or explain why figures do."""
    return {
        "seconds": seconds,
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("foldflat", "torch", "transformers")},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
