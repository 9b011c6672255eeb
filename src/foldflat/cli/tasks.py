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
    from foldflat.workflow.tasks import finetune_folder

    settings = TrainingSettings(
        seed=seed,
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        bf16=bf16,
        tables=tables,
    )
    scores = finetune_folder(
        model, output, task=task, data=data, settings=settings, overwrite=overwrite, progress=not as_json
    )
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
