"""Everything that touches transformers: find tables, register the loader, keep `from_pretrained` working.

transformers is imported only where a model of its kind is at hand, so foldflat alone needs torch only.
"""

import contextlib
import copy
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foldflat.errors import CheckpointError, FormatVersionError, MissingDependencyError, UnsupportedModelError
from foldflat.model.manifest import refresh_checksums

__all__ = [
    "CONFIG_FORMAT",
    "METHOD",
    "PRUNED",
    "VARIANT",
    "WEIGHTS_NAME",
    "Builder",
    "adapt",
    "check_config_format",
    "input_embedding_names",
    "is_pretrained",
    "pruned_layout",
    "quiet_transformers",
    "replaced_tables",
    "require_transformers",
    "restore",
    "strip",
    "vocabulary",
]

METHOD = "foldflat"
VARIANT = "foldflat"
WEIGHTS_NAME = "model.foldflat.safetensors"
CONFIG_FORMAT = 1
PRUNED = "_foldflat_pruned"

Builder = Callable[[nn.Module, list[dict[str, Any]], torch.dtype], nn.Module]


def require_transformers() -> Any:
    """Return the transformers module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError('transformers is not installed; hint: pip install "foldflat[hf]"') from error
    return transformers


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from showing bars of its own, and give back its verbosity as it was."""
    require_transformers()
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def is_pretrained(model: object) -> bool:
    """Say whether a model is one of transformers'."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(model, transformers.PreTrainedModel)


def input_embedding_names(model: nn.Module) -> tuple[str, ...] | None:
    """Return the dotted names of a transformers model's input embedding; None for any other module."""
    if not is_pretrained(model):
        return None
    try:
        embedding = model.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError:
        return ()
    if isinstance(embedding, nn.Embedding):
        shared = embedding.weight
        return tuple(
            name
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Embedding) and module.weight is shared
        )
    return ()


def vocabulary(model: nn.Module) -> dict[str, int] | None:
    """Return token -> row of the tokenizer beside a transformers model; None where there is none."""
    path = getattr(getattr(model, "config", None), "name_or_path", "")
    if not path:
        return None
    try:
        tokens: dict[str, int] = require_transformers().AutoTokenizer.from_pretrained(path).get_vocab()
    except (OSError, ValueError):
        return None
    return tokens


def adapt(model: nn.Module, tables: list[dict[str, Any]], pruned: dict[str, Any] | None = None) -> nn.Module:
    """Make a transformers model of which parts were replaced or removed save and reload as such.

    Its class becomes a same-named subclass that writes `model.foldflat.safetensors`, and its config tells the
    registered loader which modules to replace, and which tensors are smaller. Any other model only remembers the
    latter.
    """
    if not is_pretrained(model):
        if pruned is not None:
            model.__dict__[PRUNED] = pruned
        return model
    from foldflat.model.hub.loader import FoldflatConfig

    model.config = copy.deepcopy(model.config)
    model.config.quantization_config = FoldflatConfig(tables=tables, pruned=pruned)  # type: ignore[union-attr]
    return restore(model)


def pruned_layout(model: nn.Module) -> dict[str, Any] | None:
    """Return which tensors of a pruned model are smaller, None for any other."""
    if not is_pretrained(model):
        found: dict[str, Any] | None = model.__dict__.get(PRUNED)
        return found
    return getattr(getattr(model.config, "quantization_config", None), "pruned", None)


def replaced_tables(model: nn.Module) -> list[dict[str, Any]]:
    """Return what the config of a transformers model says of its compressed embeddings."""
    if not is_pretrained(model):
        return []
    tables: list[dict[str, Any]] = getattr(getattr(model.config, "quantization_config", None), "tables", [])
    return tables


def restore(model: nn.Module) -> nn.Module:
    """Give a model with replaced embeddings its saving class and clear the ties of its output layers."""
    model.__class__ = _saving_class(_plain_class(type(model)))
    model._tied_weights_keys = _without_heads(model, model._tied_weights_keys or {})  # type: ignore[arg-type,assignment]
    model.all_tied_weights_keys = _without_heads(model, model.all_tied_weights_keys)  # type: ignore[arg-type,assignment]
    return model


def strip(model: nn.Module) -> nn.Module:
    """Undo `adapt` on a model whose embeddings are plain again; others pass unchanged."""
    if not is_pretrained(model):
        return model
    model.__class__ = _plain_class(type(model))
    model.__dict__.pop("_tied_weights_keys", None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)  # type: ignore[operator]
    return model


def _without_heads(model: nn.Module, ties: dict[str, str]) -> dict[str, str]:
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    return {target: source for target, source in ties.items() if {target, source} <= names}


def _plain_class(kind: type) -> type:
    return kind.__mro__[1] if getattr(kind, "_foldflat_saving", False) else kind


@functools.cache
def _saving_class(kind: type) -> type:
    def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as transformers does, under a name that only the foldflat loader looks for."""
        if args:
            kwargs["is_main_process"] = args[0]
        given = kwargs.setdefault("variant", VARIANT)
        if given != VARIANT:
            raise UnsupportedModelError(
                f"`variant` is {given!r}; a compressed model is saved as {WEIGHTS_NAME}, because plain transformers "
                "would load any other with random embeddings; hint: leave `variant` out"
            )
        _check_one_file(self, kwargs.get("max_shard_size"))
        saved = kind.save_pretrained(self, save_directory, **kwargs)  # type: ignore[attr-defined]
        refresh_checksums(Path(save_directory), (WEIGHTS_NAME, "config.json", "generation_config.json"))
        return saved

    def resize_token_embeddings(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001 (the signature of transformers)
        """Refuse: compressed tables have no rows to add or drop."""
        raise UnsupportedModelError(
            f"{kind.__name__} has a compressed input embedding, which cannot be resized\n"
            "hint: `foldflat densify` (or `result.to_dense()`), resize that model, and compress it again"
        )

    body = {
        "save_pretrained": save_pretrained,
        "resize_token_embeddings": resize_token_embeddings,
        "_foldflat_saving": True,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(kind.__name__, (kind,), body)


def _check_one_file(model: nn.Module, max_shard_size: int | str | None) -> None:
    if max_shard_size is None:
        return
    from huggingface_hub.serialization._base import parse_size_to_int

    limit = max_shard_size if isinstance(max_shard_size, int) else parse_size_to_int(max_shard_size)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > limit:
        raise CheckpointError(
            f"`max_shard_size` is {max_shard_size}, but the model takes {size} bytes and is stored in one file; "
            "hint: leave `max_shard_size` out"
        )


def check_config_format(found: Any) -> None:
    """Raise FormatVersionError where a config.json was written by a newer foldflat."""
    if not isinstance(found, int) or found > CONFIG_FORMAT:
        raise FormatVersionError(
            f"config.json has foldflat format {found!r}, this version reads up to {CONFIG_FORMAT}; "
            "hint: upgrade foldflat"
        )
