"""Commands that compare methods over a grid, and show what came out."""

from pathlib import Path
from typing import Annotated

import typer

from foldflat.cli.terminal import app, err, out, print_json, reports_errors
from foldflat.errors import RecipeError
from foldflat.options import AsJson, Overwrite
from foldflat.report.page import summary_lines
from foldflat.report.sweeps import sweep_tables

__all__ = ["report", "sweep"]

Several = Annotated[list[str] | None, typer.Option(help="As in a grid; may be repeated.")]
SeveralNumbers = Annotated[list[float] | None, typer.Option(help="As in a grid; may be repeated.")]


@app.command()
@reports_errors
def sweep(
    results: Annotated[Path, typer.Option("--output", "-o", help="Folder of results; a sweep in it goes on.")],
    grid: Annotated[
        Path | None, typer.Argument(help="YAML file (docs/sweep.md); without one, the options say what is compared.")
    ] = None,
    model: Several = None,
    data: Annotated[str | None, typer.Option(help="Folder or hub name with GLUE's tasks.")] = None,
    task: Several = None,
    method: Several = None,
    rate: SeveralNumbers = None,
    byte_rate: SeveralNumbers = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated. Default: 0.")] = None,
    epochs: SeveralNumbers = None,
    max_steps: Annotated[list[int] | None, typer.Option(help="In place of epochs; may be repeated.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of every run. Default: 5e-5.")] = None,
    jobs: Annotated[int, typer.Option(help="Cells computed side by side.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of each. Default: the cores shared.")] = None,
    ray: Annotated[str | None, typer.Option(help='Address of a Ray cluster to compute on, or "local".')] = None,
    as_json: AsJson = False,
) -> None:
    """Compare methods on GLUE: fine-tune, compress, fine-tune again, score, for every cell of a grid.

    Finished cells are never computed again. Example: `foldflat sweep grid.yaml -o results --jobs 2`, or without a file:
    `foldflat sweep --model my-model --data glue --task sst2 --method none --method ours --rate 0.4 --epochs 0 -o found`
    """
    from foldflat.workflow.sweep import grid_of_options, run_sweep

    given = grid_of_options(
        grid,
        models=model,
        data=data,
        tasks=task,
        methods=method,
        rates=rate,
        byte_rates=byte_rate,
        seeds=seed,
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
    )

    def watch(line: str) -> None:
        err.print(line, markup=False, highlight=False, soft_wrap=True)

    found = run_sweep(given, results, jobs=jobs, threads=threads, ray=ray, watch=None if as_json else watch)
    if as_json:
        counts = {"finished": len(found.cells), "computed": found.computed}
        print_json({"results": str(found.file), **counts, "failed": found.failed, "statistics": found.statistics})
    else:
        for table in sweep_tables(found.statistics):
            out.print(table)
        out.print(f"{len(found.cells)} cells in {found.file}", highlight=False, soft_wrap=True)
    if found.failed:
        err.print(f"{len(found.failed)} cells failed; the next run tries them again.", highlight=False)
        raise typer.Exit(1)


@app.command()
@reports_errors
def report(
    results: Annotated[Path, typer.Argument(help="Folder of a sweep, or its results.json.")],
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", help="File to write: .html, .md or .json; may be repeated."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Show what a sweep found: a page of its own with charts, Markdown, or JSON.

    Example: `foldflat report results -o report.html -o report.md`
    """
    from foldflat.workflow.sweep.reporting import write_report

    if not output and not as_json:
        raise RecipeError("no file to write the report to\nhint: -o report.html, or --json")
    files = output or []
    found = write_report(results, files, overwrite=overwrite)
    if as_json:
        print_json(found)
        return
    for model in found["summary"]:
        for line in summary_lines(model):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    for file in files:
        out.print(f"{file}: {file.stat().st_size:,} bytes", markup=False, highlight=False, soft_wrap=True)
