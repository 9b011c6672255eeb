"""What `compress` and `prune` do alike when something is to be promised."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from foldflat.cli.terminal import out, print_json
from foldflat.errors import RecipeError
from foldflat.report.promises import search_table

if TYPE_CHECKING:  # evaluates models, which takes long to import
    from foldflat.workflow.certificates import CertifiedSearch

__all__ = ["print_search", "refuse_beside_promise"]


def refuse_beside_promise(contradicting: dict[str, Any], needed: dict[str, Any]) -> None:
    """Raise RecipeError for options that a search for a promise cannot follow, or lacks."""
    given = [name for name, value in contradicting.items() if value is not None]
    absent = [name for name, value in needed.items() if value is None]
    if given:
        raise RecipeError(f"{given[0]} is given beside --max-drop, which searches\nhint: leave one of them out")
    if absent:
        raise RecipeError(f"--max-drop is given without {absent[0]}\nhint: what is it to be measured on?")


def print_search(found: "CertifiedSearch", output: Path, as_json: bool) -> None:
    """Print what a search came to; exit code 1 where nothing can be promised."""
    if as_json:
        report = found.chosen[1].report if found.chosen is not None else None
        print_json({"output": str(output) if found.chosen else None, **found.report, "report": report})
    else:
        out.print(search_table(found.report))
        out.print(found.report["words"], markup=False, highlight=False)
        if found.chosen is not None:
            out.print(f"Written to {output}; load it after `import foldflat`.")
    if found.chosen is None:
        raise typer.Exit(1)
