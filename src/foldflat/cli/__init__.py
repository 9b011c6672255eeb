"""The command line: parse, call one function, print."""

from typing import Annotated

import typer

import foldflat
from foldflat.cli import certificates, embeddings, filters, sweeps, tasks
from foldflat.cli.terminal import app

__all__ = ["app", "certificates", "embeddings", "filters", "main", "sweeps", "tasks"]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Make trained networks smaller, and say how sure it is that they still work."""
    if version:
        typer.echo(f"foldflat {foldflat.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app()
