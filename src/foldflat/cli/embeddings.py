"""Commands for embedding tables."""

from pathlib import Path
from typing import Annotated, Any

import typer

from foldflat.cli.promises import print_search, refuse_beside_promise
from foldflat.cli.terminal import app, err, out, print_json, progress, reports_errors
from foldflat.cluster.distributed import launched_team
from foldflat.embedding.plan import EmbeddingPlan
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import ModelNotFoundError
from foldflat.options import (
    AsJson,
    Model,
    Output,
    Overwrite,
    Seed,
    refuse_without_promise,
    takes_promise,
    takes_recipe,
    takes_text,
)
from foldflat.report import (
    counts_in_words,
    inspection_table,
    pruning_table,
    pruning_verdict,
    summary_table,
    trials_table,
    verdict,
)
from foldflat.report.planning import candidates_table, unmeasured
from foldflat.workflow.folders import compress_folder, densify_folder, plan_source
from foldflat.workflow.inspection import inspect_model
from foldflat.workflow.planning import check_outputs, write_picture
from foldflat.workflow.weighting import TextSample

__all__ = ["compress", "demo", "densify", "inspect", "plan"]


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
        print_json(results)


@app.command()
@reports_errors
@takes_recipe
@takes_text
def plan(
    model: Model,
    recipe: EmbeddingRecipe,
    sample: TextSample,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the plan, as JSON.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="SVG file of bytes against loss, for what a search tried.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what compressing would do and cost, without writing a model.

    With --budget alone every way to store the table is tried; Ctrl-C ends the search and keeps what it found.

    Example: `foldflat plan my-model --budget 8MB --picture ways.svg -o plan.json`
    """
    check_outputs(recipe, picture, [output])
    with progress(as_json) as watch:
        made, report = plan_source(model, recipe, text=sample, watch=watch)
    if output is not None:
        output.write_text(made.to_json(), encoding="utf-8")
    if picture is not None:
        write_picture(report, picture)
    said = {key: report[key] for key in ("token_counts", "warnings") if key in report}
    _print_report(report, made.to_dict() | said, as_json)


@app.command()
@reports_errors
@takes_recipe
@takes_text
@takes_promise
def compress(
    model: Model,
    output: Output,
    recipe: EmbeddingRecipe,
    sample: TextSample,
    promise: Any,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="Follow a plan written by `foldflat plan -o`.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File that keeps the state of a large table's fit. Default: beside the output.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Of a classifier, for --max-drop.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Of --task: folder or hub name with GLUE's tasks. Default nyu-mll/glue.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Rows of --task that certify. Default validation.")] = None,
    plan_split: Annotated[
        str | None, typer.Option(help="Rows of --task that choose what is certified. Default train.")
    ] = None,
    plan_examples: Annotated[int | None, typer.Option(help="How many of these. Default 2000.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a model's embedding table smaller and write a complete folder with a model card.

    With --budget alone every way to store the table is tried and the best taken; a --plan of `foldflat plan` says it
    without a search. Tables in files are shared by the processes of `torchrun`. With --max-drop the smallest classifier
    is searched that can be promised to lose at most so much; exit code 1 if none can.

    Example: `foldflat compress my-model --budget 8MB -o smaller`
    """
    if promise is not None:
        refuse_beside_promise({"--plan": plan_file, "--checkpoint": checkpoint}, {"--task": task})
        from foldflat.workflow.certificates import TaskData
        from foldflat.workflow.certificates.compressing import compress_certified

        about = TaskData(str(task), data or "nyu-mll/glue", split or "validation", plan_split or "train")
        with progress(as_json) as watch:
            found = compress_certified(
                model,
                output,
                recipe,
                about,
                promise,
                plan_examples=2000 if plan_examples is None else plan_examples,
                text=sample,
                overwrite=overwrite,
                progress=False,
                watch=watch,
            )
        print_search(found, output, as_json)
        return
    refuse_without_promise(
        {
            "--task": task,
            "--data": data,
            "--split": split,
            "--plan-split": plan_split,
            "--plan-examples": plan_examples,
        }
    )
    with launched_team() as team, progress(as_json or team.rank > 0) as watch:
        asked = recipe if plan_file is None else _read_plan(plan_file)
        result = compress_folder(
            model, output, asked, overwrite=overwrite, checkpoint=checkpoint, team=team, text=sample, watch=watch
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
        print_json({"output": str(output)})
    else:
        out.print(f"Written to {output}; it needs no foldflat.")


@app.command()
@reports_errors
def inspect(model: Model, as_json: AsJson = False) -> None:
    """List every embedding table: share of the bytes, type, tied or not, how it is stored; and the filters left.

    Of a network of your own class, the tables that were compressed. Says whether a certificate in the folder is still
    of these weights; exits with 1 if not.

    Example: `foldflat inspect my-model`
    """
    from foldflat.workflow.certificates import certificate_of

    certificate = certificate_of(model)
    found = {**inspect_model(model), "certificate": certificate}
    if as_json:
        print_json(found)
    else:
        if found["tables"] or found["pruning"] is None:
            out.print(inspection_table(found))
        if found["pruning"] is not None:
            out.print(pruning_table(found["pruning"]))
            out.print(pruning_verdict(found["pruning"]), highlight=False)
        if certificate is not None:
            out.print(certificate["words"], markup=False, highlight=False)
    if certificate is not None and certificate["changed"]:
        listed = ", ".join(certificate["changed"])
        err.print(f"[bold red]Not those that the certificate was given for:[/bold red] {listed}", highlight=False)
        raise typer.Exit(1)


def _read_plan(file: Path) -> EmbeddingPlan:
    if not file.is_file():
        raise ModelNotFoundError(f"plan {file} does not exist; hint: `foldflat plan MODEL -o {file}` writes one")
    return EmbeddingPlan.from_json(file.read_text(encoding="utf-8"))


def _print_report(report: dict[str, Any], values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(values)
        return
    if "token_counts" in report:
        out.print(counts_in_words(report["token_counts"]), highlight=False, markup=False)
    for table in report["tables"]:
        if table["candidates"]:
            out.print(candidates_table(table))
            for line in unmeasured(table):
                out.print(line, style="dim", highlight=False)
            out.print(f"`{table['name']}`: {table['reason']}", highlight=False)
        elif table["trials"]:
            out.print(trials_table(table))
    if not all(table["candidates"] for table in report["tables"]):
        out.print(summary_table(report))
        out.print(verdict(report), highlight=False)
    for warning in report["warnings"]:
        err.print(f"[yellow]warning:[/yellow] {warning}")
