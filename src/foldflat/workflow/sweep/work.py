"""Compute one job of a sweep: fine-tune a parent, compress and train a copy, choose a cell or a learning rate."""

import copy
import dataclasses
import functools
import importlib.metadata
import itertools
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foldflat.checkpoint import writing_folder
from foldflat.embedding.weights import TokenCounts
from foldflat.errors import CheckpointError, DataError
from foldflat.evaluate import (
    TrainingSettings,
    choose_learning_rate,
    finetune_classifier,
    glue_task,
    load_classifier,
    load_split,
    load_tokenizer,
    model_fingerprint,
    score_classifier,
)
from foldflat.model.hub import quiet_transformers
from foldflat.pipeline import compress
from foldflat.workflow.files import write_json
from foldflat.workflow.sweep.details import table_details
from foldflat.workflow.sweep.folder import ResultsFolder
from foldflat.workflow.sweep.jobs import SIZES, TRAINING_ROWS, Job
from foldflat.workflow.sweep.methods import is_weighted, recipe_of

__all__ = ["Outcome", "work"]

_COUNTS = "token_counts.npy"
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
    training, task = _training(job, folder), job.settings["task"]
    made = finetune_classifier(job.model, task, job.data, settings=training, progress=False)
    _check_unchanged(job)
    rows = load_split(job.data, task, "train", tokenizer=made.tokenizer, max_length=training.max_length)
    with writing_folder(folder.parent_folder(job)) as beside, quiet_transformers():
        made.model.save_pretrained(beside)
        made.tokenizer.save_pretrained(beside)
        np.save(beside / _COUNTS, _counts(rows["input_ids"][:], made.model.get_input_embeddings().num_embeddings))
        figures = {"score": made.metrics, "learning_rate": training.learning_rate, **_trained(made.run)}
        values = {"key": job.key, "settings": job.settings, "figures": figures}
        write_json(beside / "parent.json", {**values, "run": _run({"training": made.run.seconds})})
    folder.forget_error(job)


def _check_unchanged(job: Job) -> None:
    """Refuse to keep under a model's fingerprint what another one gave."""
    if model_fingerprint(job.model) != job.settings["model"]:
        raise DataError(f"{job.model!r} has changed since the sweep began\nhint: run the sweep again")


def _counts(ids: list[list[int]], n: int) -> NDArray[np.int64]:
    """Return (n,) how often each token occurs in rows of ids."""
    return np.bincount(np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64), minlength=n)


def _cell(job: Job, folder: ResultsFolder) -> None:
    """Compress a copy of the parent, fine-tune it and score it."""
    started = time.perf_counter()
    start = _start(job, folder)
    figures, seconds = _scores(copy.deepcopy(start.model), start, job, folder)
    uncompressed = _figures(folder, job.needs[0])["score"]
    folder.write_cell(
        job,
        {"uncompressed": uncompressed, **figures, "table": _table(start.report), "details": start.details},
        _run({**seconds, "all": time.perf_counter() - started}),
    )


@dataclasses.dataclass(frozen=True)
class _Start:
    """Hold what a cell begins with: the parent, and a model with its table compressed, neither of which may change."""

    parent: Any
    tokenizer: Any
    model: Any
    report: dict[str, Any]
    details: dict[str, Any]


def _start(job: Job, folder: ResultsFolder) -> _Start:
    settings = job.settings
    place = folder.parent_folder(job.needs[0])
    made = (place / "parent.json").stat()
    return _compressed(
        place,
        (made.st_ino, made.st_mtime_ns),
        settings["task"],
        settings["method"],
        settings["rate"],
        settings["recipe_seed"],
    )


@functools.lru_cache(maxsize=1)  # cells of several lengths, and their trials, follow one another
def _compressed(
    place: Path,
    made: tuple[int, int],  # noqa: ARG001 (a parent that was made anew is another)
    task: str,
    method: str,
    rate: float | None,
    seed: int,
) -> _Start:
    tokenizer = load_tokenizer(place)
    parent = load_classifier(place, glue_task(task), tokenizer=tokenizer, new_head=False)
    table = parent.get_input_embeddings().weight
    recipe = recipe_of(method, rate, seed, table_bytes=table.numel() * table.element_size())
    if recipe is None:
        return _Start(parent, tokenizer, parent, {}, {})
    counts = torch.from_numpy(np.load(place / _COUNTS, allow_pickle=False))
    result = compress(parent, recipe, calibration=TokenCounts(counts) if is_weighted(method) else None)
    largest = max(result.report["tables"], key=lambda table: table["size_bytes_before"])
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    tokens += [f"[{row}]" for row in range(len(tokens), len(counts))]
    details = table_details(parent, result.model, largest["name"], tokens, counts)
    return _Start(parent, tokenizer, result.model, result.report, details)


def _scores(model: Any, start: _Start, job: Job, folder: ResultsFolder) -> tuple[dict[str, Any], dict[str, float]]:
    """Train a model if the job says so, score it; return figures, and the seconds that training took."""
    settings, task = job.settings, job.settings["task"]
    figures: dict[str, Any] = {"steps": 0, "train_loss": None, "learning_rate": None, "held_out": None}
    seconds = {}
    reading = {"tokenizer": start.tokenizer, "max_length": settings["parent"]["max_length"]}
    if settings["training"] is None:
        figures["score"] = score_classifier(model, task, job.data, **reading)
    else:
        training = _training(job, folder)
        reading["max_length"] = training.max_length
        teacher = start.parent if settings["teacher"] else None
        tuned = finetune_classifier(
            model, task, job.data, settings=training, progress=False, tokenizer=start.tokenizer, teacher=teacher
        )
        figures |= {"score": tuned.metrics, "learning_rate": training.learning_rate, **_trained(tuned.run)}
        seconds["training"] = tuned.run.seconds
    if settings["training_rows"] is not None:
        on_training = score_classifier(model, task, job.data, split="train", max_examples=TRAINING_ROWS, **reading)
        figures["training_score"] = on_training["headline"]
    return figures, seconds


def _training(job: Job, folder: ResultsFolder) -> TrainingSettings:
    """Return the settings of a run, with the learning rate that was chosen for it."""
    values = dict(job.settings["training"])
    if values["learning_rate"] is None:
        values["learning_rate"] = _figures(folder, job.needs[-1])["learning_rate"]
    return TrainingSettings(**values)


def _learning_rate(job: Job, folder: ResultsFolder) -> None:
    """Choose a learning rate by short runs of a parent or of a cell."""
    settings, task = job.settings, job.settings["task"]
    started = time.perf_counter()
    training = TrainingSettings(**{**settings["training"], "learning_rate": settings["learning_rates"][0]})
    teacher = None
    if settings["trial_of"] == "parent":
        tokenizer = load_tokenizer(job.model)

        def make() -> Any:
            own = {"tokenizer": tokenizer, "new_head": True, "seed": training.seed}
            return load_classifier(job.model, glue_task(task), **own)
    else:
        start = _start(job, folder)
        tokenizer, teacher = start.tokenizer, start.parent if settings["teacher"] else None

        def make() -> Any:
            return copy.deepcopy(start.model)

    rows = load_split(job.data, task, "train", tokenizer=tokenizer, max_length=training.max_length)
    chosen = choose_learning_rate(
        make, rows, settings["learning_rates"], task=task, tokenizer=tokenizer, settings=training, teacher=teacher
    )
    if settings["trial_of"] == "parent":
        _check_unchanged(job)
    folder.write_cell(job, dataclasses.asdict(chosen), _run({"all": time.perf_counter() - started}))


def _choice(job: Job, folder: ResultsFolder) -> None:
    """Take the figures of the cell that does best on the training rows, the first of equals."""
    cells = {need.settings["method"]: _figures(folder, need) for need in job.needs}
    scores = {method: cell["training_score"]["value"] for method, cell in cells.items()}
    chosen = max(scores, key=lambda method: scores[method])
    folder.write_cell(job, {**cells[chosen], "chosen": chosen, "training_scores": scores}, _run({}))


_COMPUTE = {"parent": _parent, "cell": _cell, "choice": _choice, "learning_rate": _learning_rate}


def _figures(folder: ResultsFolder, job: Job) -> dict[str, Any]:
    found = folder.finished(job)
    if found is None:
        raise CheckpointError(f"{job.label} is gone from {folder.path}\nhint: run the sweep again")
    figures: dict[str, Any] = found["figures"]
    return figures


def _trained(run: Any) -> dict[str, Any]:
    return {"steps": run.steps, "train_loss": run.train_loss, "held_out": run.held_out}


def _table(report: dict[str, Any]) -> dict[str, Any]:
    if not report:
        return {}
    sizes = {name: report[name] for name in SIZES}
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
