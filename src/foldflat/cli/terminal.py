"""The application, what it prints to, and what errors become."""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from foldflat.errors import BudgetError, FoldflatError, RecipeError

__all__ = ["app", "err", "out", "print_json", "progress", "reports_errors"]

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


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None] | None]:
    """Show a line of progress on stderr while the block runs; None where nobody is to see it."""
    if quiet:
        yield None
        return
    with err.status("Reading the model") as status:
        yield status.update


def print_json(values: dict[str, Any]) -> None:
    """Print JSON on standard output."""
    typer.echo(json.dumps(values, indent=2))
