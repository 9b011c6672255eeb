"""Find the embeddings of a model, and what shares their weights."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from foldflat.errors import NoEmbeddingError, UnsupportedModelError

__all__ = ["FoundTable", "find_tables", "matches"]


@dataclass(frozen=True)
class FoundTable:
    """Name one weight that embeds tokens.

    Attributes:
        names: dotted names of the nn.Embedding modules that use it; "" is the model itself.
        heads: dotted names of the nn.Linear output layers tied to it.
        embedding: one of the modules.
    """

    names: tuple[str, ...]
    heads: tuple[str, ...]
    embedding: nn.Embedding

    @property
    def name(self) -> str:
        """Return the name that reports use."""
        return self.names[0]


def matches(name: str, patterns: str | tuple[str, ...]) -> bool:
    """Say whether a dotted name matches one of the fnmatch patterns."""
    listed = (patterns,) if isinstance(patterns, str) else patterns
    return any(fnmatchcase(name, pattern) for pattern in listed)


def find_tables(
    model: nn.Module,
    include: str | tuple[str, ...] | None = None,
    exclude: str | tuple[str, ...] = (),
    *,
    default_names: tuple[str, ...] | None = None,
) -> list[FoundTable]:
    """Find every nn.Embedding that the patterns select, in the order of the model's modules.

    Args:
        model: any module.
        include: patterns; None selects `default_names`, or every embedding.
        exclude: patterns to leave out.
        default_names: names that a family of models selects by default.

    Raises:
        UnsupportedModelError: a selected embedding is a subclass, has `max_norm`, or shares its weight with a
            module that is neither an nn.Embedding nor an nn.Linear.
        NoEmbeddingError: nothing is selected.
    """
    embeddings = {
        name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, nn.Embedding)
    }
    selected = [name for name in embeddings if _selected(name, include, default_names) and not matches(name, exclude)]
    if not selected:
        raise NoEmbeddingError(_nothing_found(model, list(embeddings), include, exclude))
    users = _users_by_weight(model)
    tables: dict[int, FoundTable] = {}
    for name in selected:
        embedding = embeddings[name]
        _check_replaceable(name, embedding)
        if id(embedding.weight) not in tables:
            tables[id(embedding.weight)] = _found(name, embedding, users[id(embedding.weight)])
    return list(tables.values())


def _selected(name: str, include: str | tuple[str, ...] | None, default_names: tuple[str, ...] | None) -> bool:
    if include is not None:
        return matches(name, include)
    return default_names is None or name in default_names


def _users_by_weight(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    users: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append((name, module))
    return users


def _found(name: str, embedding: nn.Embedding, users: list[tuple[str, nn.Module]]) -> FoundTable:
    names, heads = [], []
    for user_name, user in users:
        if type(user) is nn.Linear and user.weight is embedding.weight:
            heads.append(user_name)
        elif isinstance(user, nn.Embedding):
            _check_replaceable(user_name, user)
            names.append(user_name)
        else:
            raise UnsupportedModelError(
                f"the weight of `{name}` is shared with `{user_name}` ({type(user).__name__}), which cannot be "
                f"replaced; hint: exclude `{name}`"
            )
    return FoundTable(tuple(names), tuple(heads), embedding)


def _check_replaceable(name: str, embedding: nn.Embedding) -> None:
    if type(embedding) is not nn.Embedding:
        raise UnsupportedModelError(
            f"`{name}` is a {type(embedding).__name__}, a subclass of nn.Embedding that may scale or shift its rows; "
            f"only plain nn.Embedding is replaced\nhint: exclude `{name}`, or replace it by an nn.Embedding whose "
            "rows are already scaled"
        )
    if "weight" not in embedding._parameters:
        raise UnsupportedModelError(
            f"`{name}` is computed from other parameters at each look-up, which a replacement would lose; "
            f"hint: exclude `{name}`"
        )
    if embedding._forward_hooks or embedding._forward_pre_hooks:
        raise UnsupportedModelError(
            f"`{name}` has forward hooks, which a replacement would lose; hint: exclude `{name}`"
        )
    if embedding.max_norm is not None:
        raise UnsupportedModelError(
            f"`{name}` has max_norm={embedding.max_norm}, which changes its weights during look-up; "
            f"hint: exclude `{name}`"
        )


def _nothing_found(
    model: nn.Module, names: list[str], include: str | tuple[str, ...] | None, exclude: str | tuple[str, ...]
) -> str:
    kind = type(model).__name__
    if not names:
        return f"{kind} has no nn.Embedding; hint: foldflat compresses models whose size is in embedding tables"
    listed = ", ".join(f"`{name}`" for name in names[:8])
    return (
        f"no embedding of {kind} is left by include={include!r}, exclude={exclude!r}\n"
        f"hint: it has {listed}{' ..' if len(names) > 8 else ''}"
    )
