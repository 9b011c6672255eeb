"""Import what an extra brings, or say which extra is missing."""

import importlib
from typing import Any

from foldflat.errors import MissingDependencyError

__all__ = ["require"]


def require(module: str, extra: str) -> Any:
    """Import and return `module`, which the optional dependencies named `extra` install.

    Raises MissingDependencyError where it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"evaluating, fine-tuning and counting need `{module}`, which cannot be imported: {error}\n"
            f'hint: pip install "foldflat[{extra}]"'
        ) from error
