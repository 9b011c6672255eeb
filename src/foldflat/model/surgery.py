"""Put modules in the place of others."""

import copy
from collections.abc import Iterable

from torch import nn

__all__ = ["copy_around", "parent_and_leaf", "replace_module"]


def parent_and_leaf(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that owns the module of a dotted name, and its name there."""
    parent, _, leaf = name.rpartition(".")
    return model.get_submodule(parent), leaf


def replace_module(model: nn.Module, name: str, replacement: nn.Module) -> nn.Module:
    """Put `replacement` where `name` was and return the model; "" returns the replacement itself."""
    if not name:
        return replacement
    parent, leaf = parent_and_leaf(model, name)
    setattr(parent, leaf, replacement)
    return model


def copy_around(model: nn.Module, parameters: Iterable[nn.Parameter]) -> nn.Module:
    """Return a deep copy of a model that shares the given parameters, because they are about to be replaced."""
    memo = {id(parameter): parameter for parameter in parameters}
    return copy.deepcopy(model, memo)
