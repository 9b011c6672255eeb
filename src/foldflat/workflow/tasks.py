"""Fine-tune and score folders, compressed or not."""

import os
from pathlib import Path
from typing import Any

from foldflat.checkpoint import check_target, compressed_tables, save_model_files, writing_folder
from foldflat.errors import DataError
from foldflat.evaluate import (
    FinetuneResult,
    TrainingSettings,
    finetune_classifier,
    glue_task,
    load_classifier,
    load_tokenizer,
    score_classifier,
)
from foldflat.model.manifest import write_manifest

__all__ = ["evaluate_folder", "finetune_folder", "is_first_process"]


def is_first_process() -> bool:
    """Say whether this process writes and prints for all: under torchrun the one of rank 0, otherwise any."""
    return int(os.environ.get("RANK", "0")) == 0


def finetune_folder(
    model: str,
    target: str | os.PathLike[str],
    *,
    task: str,
    data: str,
    settings: TrainingSettings,
    teacher: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Fine-tune a model on a task, write a complete folder, return scores and how the run went.

    Under torchrun all processes train and score, and the first writes.

    Args:
        model: folder or hub name, compressed by foldflat or not.
        target: folder to make.
        task: one of the nine GLUE tasks.
        data: folder or hub name of the data.
        settings: of the training run.
        teacher: folder or hub name of a classifier of the task to distil from, of the model's vocabulary.
        overwrite: replace a target that exists.

    Raises:
        DataError: the teacher has another vocabulary; and what `finetune_classifier` raises.
    """
    check_target(target, overwrite=overwrite)
    loaded = None if teacher is None else _teacher(teacher, model, task)
    result = finetune_classifier(model, task, data, settings=settings, teacher=loaded, progress=progress)
    settled = {**vars(settings), "teacher": teacher}
    scores = {"model": model, **result.metrics, "train": vars(result.run), "settings": settled}
    if is_first_process():
        _write(target, result, scores, overwrite=overwrite)
    return scores


def _write(target: str | os.PathLike[str], result: FinetuneResult, scores: dict[str, Any], *, overwrite: bool) -> None:
    with writing_folder(target, overwrite=overwrite) as folder:
        compressed = bool(compressed_tables(result.model))
        manifest = save_model_files(result.model, folder) if compressed else {}
        if not compressed:
            result.model.save_pretrained(folder)
        result.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(_card(Path(target).name, scores), encoding="utf-8")
        if compressed:
            write_manifest(folder, manifest)


def _teacher(name: str, model: str, task: str) -> Any:
    tokenizer = load_tokenizer(name)
    if tokenizer.get_vocab() != load_tokenizer(model).get_vocab():
        raise DataError(
            f"the teacher {name!r} has another vocabulary than {model!r}, and would read other words\n"
            "hint: the model from before compression, fine-tuned on the task"
        )
    return load_classifier(name, glue_task(task), tokenizer=tokenizer, new_head=False)


def evaluate_folder(
    model: str, *, task: str, data: str, split: str = "validation", progress: bool = True
) -> dict[str, Any]:
    """Return the official metrics of a model on one split of a task."""
    return {"model": model, **score_classifier(model, task, data, split=split, progress=progress)}


def _card(title: str, scores: dict[str, Any]) -> str:
    metrics = "\n".join(f"| {name} | {value:.4f} |" for name, value in scores["metrics"].items())
    settings = ", ".join(f"{name} {value}" for name, value in scores["settings"].items())
    trained = "".join(
        f"\nOf the table `{name}` were trained: {', '.join(parts)}.\n"
        for name, parts in scores["train"]["tables"].items()
    )
    held_out = scores["train"]["held_out"]
    if held_out is not None:
        trained += (
            f"\nThe weights after step {held_out['step']}: of {len(held_out['checks'])} that were tried, the best "
            f"{held_out['metric']} on {held_out['rows']} training rows that were held out.\n"
        )
    return f"""# {title}

{scores["model"]} fine-tuned on {scores["task"]}; {scores["examples"]} examples of split {scores["split"]}.

| metric | value |
|---|---|
{metrics}

{scores["train"]["steps"]} steps; {settings}.
{trained}"""
