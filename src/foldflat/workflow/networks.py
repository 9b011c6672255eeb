"""What NETWORK means on the command line: a function that builds one, or a model of transformers."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from foldflat.errors import DataError, ModelNotFoundError, PlanMismatchError, RecipeError, UnsupportedModelError
from foldflat.evaluate import Preprocessing, preprocessing_of
from foldflat.model.hub.reading import load_pretrained
from foldflat.model.manifest import MANIFEST

__all__ = ["Network", "open_network"]


@dataclass(frozen=True)
class Network:
    """Hold a network that was opened.

    Attributes:
        text: as the user gave it.
        model: the network, with its weights, in eval mode.
        preprocessing: what its images go through; None where the user has to say.
        build: makes a fresh instance without weights; None for a model of transformers.
    """

    text: str
    model: nn.Module
    preprocessing: Preprocessing | None
    build: Callable[[], nn.Module] | None


def open_network(text: str, weights: Path | None = None) -> Network:
    """Build or load what NETWORK names.

    Args:
        text: `package.module:function` that returns a network, or a folder or hub name of transformers.
        weights: .safetensors for a network that is built; needed there.

    Raises:
        ModelNotFoundError, RecipeError, UnsupportedModelError, DataError, PlanMismatchError: says why it cannot.
    """
    if ":" in text and not Path(text).exists():
        return _built(text, weights)
    if weights is not None:
        raise RecipeError(
            f"`weights` is given, but {text} is a folder or hub name that has its own; hint: leave it out"
        )
    if (Path(text) / MANIFEST).is_file():
        raise UnsupportedModelError(f"{text} is compressed already; hint: prune the original, with the smaller --keep")
    model = load_pretrained(text).eval()
    return Network(text, model, preprocessing_of(text), None)


def _built(text: str, weights: Path | None) -> Network:
    build = _function(text)
    if weights is None:
        raise RecipeError(f"{text} builds a network without trained weights; hint: --weights FILE.safetensors")
    if not weights.is_file():
        raise ModelNotFoundError(f"{weights} does not exist")
    model = build()
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"{text} returns a {type(model).__name__}; hint: it has to return a torch module")
    try:
        model.load_state_dict(load_file(weights))
    except SafetensorError as error:
        raise DataError(f"{weights} is no safetensors file ({error})") from error
    except RuntimeError as error:
        raise PlanMismatchError(f"{weights} does not fit what {text} builds: {error}") from error
    return Network(text, model.eval(), None, build)


def _function(text: str) -> Callable[[], nn.Module]:
    name, _, function = text.partition(":")
    # as `python -m` does: modules of the current folder can be named
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ModelNotFoundError(
            f"{text} cannot be imported ({error}); hint: package.module:function, seen from the current folder"
        ) from error
    finally:
        sys.path.pop(0)
    found: Callable[[], nn.Module] | None = getattr(module, function, None)
    if not callable(found):
        raise ModelNotFoundError(f"{name} has no function {function!r}; hint: one without arguments that returns it")
    return found
