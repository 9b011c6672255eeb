"""The command that certifies."""

from pathlib import Path
from typing import Annotated, Any

import typer

from foldflat.cli.terminal import app, out, print_json, reports_errors
from foldflat.errors import RecipeError
from foldflat.options import AsJson, Confidence, LedgerFile, Risk

__all__ = ["certify"]


@app.command()
@reports_errors
def certify(
    original: Annotated[str, typer.Argument(help="The model before compression: MODEL or NETWORK of other commands.")],
    compressed: Annotated[str, typer.Argument(help="Folder of the one after it; the certificate is kept there.")],
    max_drop: Annotated[float, typer.Option(help="Limit of the mean risk: 0.005 is half a point of accuracy.")],
    task: Annotated[str | None, typer.Option(help="Classifiers: one of the nine GLUE tasks.")] = None,
    texts: Annotated[
        str | None, typer.Option(help="Sentence encoders: texts without labels, as --text of `compress`.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder or hub name: of GLUE's tasks (default nyu-mll/glue), or of labelled images."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Held-out split. Default validation, of images test.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help=".safetensors with the weights of a network that a function builds.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side to resize images to, as for `prune`.")] = None,
    collection: Annotated[
        str | None, typer.Option(help="Sentence encoders: texts in which the ten nearest to each are looked for.")
    ] = None,
    confidence: Confidence = 0.95,
    risk: Risk = None,
    ledger: LedgerFile = None,
    as_json: AsJson = False,
) -> None:
    """Promise, with stated confidence, that a compressed model is at most so much worse; exit code 1 if not.

    Example: `foldflat certify tuned smaller --task sst2 --max-drop 0.01`
    """
    from foldflat.workflow.certificates import Promise, certify_folder

    promise = Promise(max_drop, confidence, risk, ledger)
    about = _data(
        task=task,
        texts=texts,
        data=data,
        split=split,
        weights=weights,
        image_size=image_size,
        collection=collection,
    )
    found = certify_folder(original, compressed, about, promise, progress=not as_json)
    if as_json:
        print_json(found)
    else:
        out.print(found["words"], markup=False, highlight=False)
    if not found["promised"]:
        raise typer.Exit(1)


def _data(
    *,
    task: str | None,
    texts: str | None,
    data: str | None,
    split: str | None,
    weights: Path | None,
    image_size: int | None,
    collection: str | None,
) -> Any:
    """Return what models are compared on."""
    from foldflat.workflow.certificates import ImageData, SentenceData, TaskData

    kind = "task" if task is not None else "texts" if texts is not None else "data"
    every: dict[str, dict[str, Any]] = {
        "task": {"--texts": texts, "--weights": weights, "--image-size": image_size, "--collection": collection},
        "texts": {"--data": data, "--split": split, "--weights": weights, "--image-size": image_size},
        "data": {"--collection": collection},
    }
    given = [name for name, value in every[kind].items() if value is not None]
    if given:
        raise RecipeError(f"{given[0]} is given beside --{kind}\nhint: leave one of them out")
    if task is not None:
        return TaskData(task, data or "nyu-mll/glue", split or "validation")
    if texts is not None:
        return SentenceData(texts, collection=collection)
    if data is None:
        raise RecipeError("no examples\nhint: --task with --data, --texts, or --data with images")
    return ImageData(data, split or "test", weights, image_size)
