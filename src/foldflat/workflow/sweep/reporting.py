"""Write the report of a sweep in the forms that its files ask for."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import foldflat
from foldflat.errors import RecipeError, TargetExistsError
from foldflat.report.page import example_row, page_html, page_markdown, sweep_document
from foldflat.workflow.files import write_text
from foldflat.workflow.sweep.commands import commands_for
from foldflat.workflow.sweep.reading import parent_learning_rate, read_results

__all__ = ["write_report"]


def write_report(results: str | os.PathLike[str], files: Iterable[Path], *, overwrite: bool = False) -> dict[str, Any]:
    """Write the report of a sweep and return it as the JSON that it is made of.

    Args:
        results: folder of a sweep, or its results.json.
        files: what to write, each .html, .md or .json; none to return the report only.
        overwrite: replace files that exist.

    Raises:
        RecipeError: another suffix, or a folder that does not exist.
        TargetExistsError: a file exists, or is a folder.
        FoldflatError: the results cannot be read, see `read_results`; nothing is written then.
    """
    targets = [_checked(file, overwrite) for file in files]
    read = read_results(results)
    source = os.fspath(results)
    folder = source if Path(source).is_dir() else str(Path(source).parent)
    example = example_row(read.rows)
    document = sweep_document(
        read.rows,
        source=source,
        grid=read.grid,
        machines=read.machines,
        commands=commands_for(example, read.grid, folder, parent_learning_rate(folder, example)),
        version=foldflat.__version__,
    )
    # all are made before the first is written
    texts = [(file, _FORMS[file.suffix.lower()](document)) for file in targets]
    for file, text in texts:
        write_text(file, text)
    return document


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


_FORMS: dict[str, Callable[[dict[str, Any]], str]] = {".html": page_html, ".md": page_markdown, ".json": _json}


def _checked(file: Path, overwrite: bool) -> Path:
    if file.suffix.lower() not in _FORMS:
        raise RecipeError(
            f"{str(file)!r} ends in {file.suffix or 'no suffix'!r}, which says no form of a report\n"
            f"hint: name it {', '.join(_FORMS)}"
        )
    if not file.absolute().parent.is_dir():
        raise RecipeError(f"{file} is to be written, but folder {file.parent} does not exist\nhint: make it first")
    if file.is_dir():
        raise TargetExistsError(f"{file} is a folder\nhint: name a file")
    if file.exists() and not overwrite:
        raise TargetExistsError(f"{file} exists\nhint: --overwrite (overwrite=True) replaces it")
    return file
