"""Register the loader with transformers the moment transformers is there, without importing it."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from foldflat.model.hub import Builder

__all__ = ["build", "register_loader"]

_TRIGGER = "transformers.quantizers.auto"
_builders: list[Builder] = []


def register_loader(builder: Builder) -> None:
    """Make `from_pretrained` read foldflat's folders, now or when transformers is imported later.

    Args:
        builder: puts empty replacement modules into a model: (model, tables of the config, dtype).
    """
    _builders[:] = [builder]
    if _TRIGGER in sys.modules:
        _import_loader()
    elif not any(isinstance(finder, _LoaderHook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LoaderHook())


def build(model: nn.Module, tables: list[dict[str, Any]], dtype: torch.dtype) -> None:
    """Put empty replacement modules into `model` with the registered builder."""
    _builders[0](model, tables, dtype)


def _import_loader() -> None:
    import foldflat.model.hub.loader  # noqa: F401 (registers itself)


class _LoaderHook(importlib.abc.MetaPathFinder):
    """Import our loader right after the module that it registers with."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Wrap the loader of the one module we wait for; all others pass."""
        if fullname != _TRIGGER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _import_loader()
