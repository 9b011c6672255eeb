"""Commands that fine-tune and score."""

from typing import Annotated, Any

import typer

from foldflat.cli.terminal import app, out, print_json, reports_errors
from foldflat.options import AsJson, Data, Model, Output, Overwrite, Seed, Task
from foldflat.report import scores_table

__all__ = ["evaluate", "finetune"]


@app.command()
@reports_errors
def finetune(
    model: Model,
    output: Output,
    task: Task,
    data: Data = "nyu-mll/glue",
    seed: Seed = 0,
    epochs: Annotated[float, typer.Option(help="Passes over the training data.")] = 3.0,
    max_steps: Annotated[int, typer.Option(help="Steps instead of epochs; -1 for epochs.")] = -1,
    learning_rate: Annotated[float, typer.Option(help="Peak; warm-up and linear decay around it.")] = 5e-5,
    batch_size: Annotated[int, typer.Option(help="Examples in a step.")] = 32,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 where it is safe.")] = False,
    group_by_length: Annotated[
        bool, typer.Option("--group-by-length", help="Make batches of texts of like length: less padding.")
    ] = False,
    hold_out: Annotated[
        float,
        typer.Option(
            help="Share of the training rows (500 at most) to score now and then in place of training on them; the "
            "weights that do best are kept."
        ),
    ] = 0.0,
    patience: Annotated[int, typer.Option(help="Such scores without a better one that end the run; 0: none do.")] = 0,
    teacher: Annotated[
        str | None, typer.Option(help="Folder or hub name of a classifier to distil from: the uncompressed one.")
    ] = None,
    teacher_weight: Annotated[float, typer.Option(help="Share of its answers in the loss, the rest are labels.")] = 0.5,
    tables: Annotated[
        str,
        typer.Option(
            help="What is trained of int8, int4 or mixed coefficients: none, bases (and scales), or all (coefficients "
            "too where they are integers)."
        ),
    ] = "bases",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model, compressed or not, on a GLUE task and score it.

    Example: `foldflat finetune smaller --task sst2 --epochs 2 -o tuned`
    """
    from foldflat.evaluate import TrainingSettings
    from foldflat.workflow.tasks import finetune_folder, is_first_process

    settings = TrainingSettings(
        seed=seed,
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        bf16=bf16,
        group_by_length=group_by_length,
        hold_out=hold_out,
        patience=patience,
        teacher_weight=teacher_weight,
        tables=tables,
    )
    scores = finetune_folder(
        model,
        output,
        task=task,
        data=data,
        settings=settings,
        teacher=teacher,
        overwrite=overwrite,
        progress=not as_json,
    )
    if is_first_process():
        _print_scores(scores, as_json)


@app.command()
@reports_errors
def evaluate(
    model: Model,
    task: Task,
    data: Data = "nyu-mll/glue",
    split: Annotated[str, typer.Option(help="Split of the data.")] = "validation",
    as_json: AsJson = False,
) -> None:
    """Score a model on a GLUE task with the task's official metrics.

    Example: `foldflat evaluate tuned --task sst2`
    """
    from foldflat.workflow.tasks import evaluate_folder

    _print_scores(evaluate_folder(model, task=task, data=data, split=split, progress=not as_json), as_json)


def _print_scores(scores: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(scores)
        return
    out.print(scores_table(scores))
