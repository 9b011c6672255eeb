"""The command that certifies."""

from typing import Annotated

import typer

from foldflat.cli.terminal import app, out, print_json, reports_errors
from foldflat.options import AsJson, Data, Task

__all__ = ["certify"]


@app.command()
@reports_errors
def certify(
    original: Annotated[str, typer.Argument(help="The classifier before compression: a folder or hub name.")],
    compressed: Annotated[str, typer.Argument(help="Folder of the one after it; the certificate is kept there.")],
    task: Task,
    max_drop: Annotated[float, typer.Option(help="Of accuracy, or the rate of other answers: 0.005 is half a point.")],
    data: Data = "nyu-mll/glue",
    split: Annotated[str, typer.Option(help="Held-out split.")] = "validation",
    confidence: Annotated[float, typer.Option(help="That the promise holds.")] = 0.95,
    risk: Annotated[str, typer.Option(help="accuracy-drop, or disagreement, which needs no labels.")] = "accuracy-drop",
    ledger: Annotated[
        str | None, typer.Option(help="File that counts how often examples were used. Default: in the state folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Promise, with stated confidence, that a compressed classifier is at most so much worse; exit code 1 if not.

    Example: `foldflat certify tuned smaller --task sst2 --max-drop 0.01`
    """
    from foldflat.workflow.certifying import certify_folder

    found = certify_folder(
        original,
        compressed,
        task=task,
        data=data,
        limit=max_drop,
        confidence=confidence,
        risk=risk,
        split=split,
        ledger=ledger,
        progress=not as_json,
    )
    if as_json:
        print_json(found)
    else:
        out.print(found["words"], markup=False, highlight=False)
    if not found["promised"]:
        raise typer.Exit(1)
