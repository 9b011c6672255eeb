"""The command line: parse, call one function, print."""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import foldflat
from foldflat.cluster.distributed import launched_team
from foldflat.embedding.plan import EmbeddingPlan
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import BudgetError, FoldflatError, ModelNotFoundError, RecipeError
from foldflat.options import AsJson, Data, Model, Output, Overwrite, Seed, Task, takes_recipe
from foldflat.report import inspection_table, scores_table, summary_table, trials_table, verdict
from foldflat.workflow.folders import compress_folder, densify_folder, inspect_model, plan_source

__all__ = ["app", "main"]

app = typer.Typer(
    name="foldflat",
    help="Make trained networks smaller, and say how sure it is that they still work.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Console()
err = Console(stderr=True)


def reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn foldflat's errors into a message and an exit code: 2 for settings, 1 for all else."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except FoldflatError as error:
            err.print(f"[bold red]error:[/bold red] {type(error).__name__}: ", end="")
            err.print(str(error), markup=False, highlight=False, soft_wrap=True)
            usage = isinstance(error, RecipeError) and not isinstance(error, BudgetError)
            raise typer.Exit(2 if usage else 1) from error

    return wrapped


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Make trained networks smaller, and say how sure it is that they still work."""
    if version:
        typer.echo(f"foldflat {foldflat.__version__}")
        raise typer.Exit


@app.command()
@reports_errors
def demo(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the best model.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train a small classifier on Python's own source, compress it every way, compare.

    Needs no network. Example: `foldflat demo`
    """
    from foldflat.demo import run_demo

    results = run_demo(output=output, seed=seed, progress=not as_json)
    if as_json:
        _print_json(results)


@app.command()
@reports_errors
@takes_recipe
def plan(
    model: Model,
    recipe: EmbeddingRecipe,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the plan, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what compressing would do and cost, without writing a model.

    Example: `foldflat plan my-model --keep 0.4`
    """
    with _progress(as_json) as watch:
        made, report = plan_source(model, recipe, watch=watch)
    if output is not None:
        output.write_text(made.to_json(), encoding="utf-8")
    _print_report(report, made.to_dict(), as_json)


@app.command()
@reports_errors
@takes_recipe
def compress(
    model: Model,
    output: Output,
    recipe: EmbeddingRecipe,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="Follow a plan written by `foldflat plan -o`.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File that keeps the state of a large table's fit. Default: beside the output.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a model's embedding table smaller and write a complete folder with a model card.

    Tables in files are shared by the processes of `torchrun`.

    Example: `foldflat compress my-model --keep 0.6 -o smaller`
    """
    with launched_team() as team, _progress(as_json or team.rank > 0) as watch:
        asked = recipe if plan_file is None else _read_plan(plan_file)
        result = compress_folder(
            model, output, asked, overwrite=overwrite, checkpoint=checkpoint, team=team, watch=watch
        )
    if result is None:
        return
    _print_report(result.report, {"output": str(output), **result.report}, as_json)
    if not as_json:
        out.print(f"Written to {output}; load it after `import foldflat`.")


@app.command()
@reports_errors
def densify(model: Model, output: Output, overwrite: Overwrite = False, as_json: AsJson = False) -> None:
    """Turn a compressed folder into one with plain tables, for runtimes without foldflat.

    Example: `foldflat densify smaller -o plain`
    """
    densify_folder(model, output, overwrite=overwrite)
    if as_json:
        _print_json({"output": str(output)})
    else:
        out.print(f"Written to {output}; it needs no foldflat.")


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


@app.command()
@reports_errors
def inspect(model: Model, as_json: AsJson = False) -> None:
    """List every embedding table: share of the bytes, type, tied or not, how it is stored.

    Example: `foldflat inspect my-model`
    """
    found = inspect_model(model)
    if as_json:
        _print_json(found)
    else:
        out.print(inspection_table(found))


def main() -> None:
    """Run the command line."""
    app()


def _read_plan(file: Path) -> EmbeddingPlan:
    if not file.is_file():
        raise ModelNotFoundError(f"plan {file} does not exist; hint: `foldflat plan MODEL -o {file}` writes one")
    return EmbeddingPlan.from_json(file.read_text(encoding="utf-8"))


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None] | None]:
    if quiet:
        yield None
        return
    with err.status("Reading the model") as status:
        yield status.update


def _print_json(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values, indent=2))


def _print_report(report: dict[str, Any], values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(values)
        return
    for table in report["tables"]:
        if table["trials"]:
            out.print(trials_table(table))
    out.print(summary_table(report))
    out.print(verdict(report), highlight=False)
    for warning in report["warnings"]:
        err.print(f"[yellow]warning:[/yellow] {warning}")


def _print_scores(scores: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(scores)
        return
    out.print(scores_table(scores))
