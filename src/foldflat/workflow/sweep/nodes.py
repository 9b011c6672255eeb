"""Read values from YAML, so that whatever is wrong with one is said with its line."""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from foldflat.errors import MissingDependencyError, ModelNotFoundError, RecipeError

__all__ = ["Node", "as_yaml", "read_yaml"]

Value = TypeVar("Value", bound=Hashable)
_TAG = "tag:yaml.org,2002:"


@dataclasses.dataclass(frozen=True)
class Node:
    """One value of a YAML file, what it is called there, and the line it stands in."""

    file: str
    name: str
    yaml: Any
    line: int

    def error(self, message: str, hint: str) -> RecipeError:
        """Return an error that names file and line."""
        return RecipeError(f"{self.file}, line {self.line}: {message}\nhint: {hint}")

    def mapping(self, known: Collection[str]) -> dict[str, "Node"]:
        """Return the values of a mapping by key; a key that is unknown or stands there twice is an error."""
        if self.yaml.id != "mapping":
            raise self.error(f"{self.name} is a {self.yaml.id}", f"write `key: value`, keys among {', '.join(known)}")
        found: dict[str, Node] = {}
        for key, value in self.yaml.value:
            name, line = str(key.value), key.start_mark.line + 1
            own = Node(self.file, f"`{name}`", value, line)
            if key.id != "scalar" or name not in known:
                raise own.error(f"unknown key `{name}` in {self.name}", f"one of {', '.join(known)}")
            if name in found:
                raise own.error(f"`{name}` stands in line {found[name].line} already", "keep one of them")
            found[name] = own
        return found

    def items(self, read: Callable[["Node"], Value]) -> dict[Value, int]:
        """Return the values of a list, each with its line; an empty list and one twice are errors."""
        if self.yaml.id != "sequence":
            raise self.error(f"{self.name} is not a list", f"write {self.name.strip('`')}: [..]")
        if not self.yaml.value:
            raise self.error(f"{self.name} is empty, so the grid has no cell", "give at least one")
        found: dict[Value, int] = {}
        for item in self.yaml.value:
            own = Node(self.file, f"an item of {self.name}", item, item.start_mark.line + 1)
            value = read(own)
            if value in found:
                raise own.error(f"{value!r} stands twice in {self.name}", "keep one of them")
            found[value] = own.line
        return found

    @property
    def is_list(self) -> bool:
        """Say whether this is a list."""
        return bool(self.yaml.id == "sequence")

    def text(self) -> str:
        """Return a text that is not empty."""
        if self._tag() != "str" or not self.yaml.value:
            raise self.error(f"{self.name} is {self._shown()}, not a text", "write it in quotes")
        return str(self.yaml.value)

    def number(self) -> float:
        """Return a finite number; 2e-4 is one, though not to YAML 1.1."""
        try:
            value = float(self.yaml.value) if self._tag() in ("int", "float", "str") else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or self.yaml.style is not None:
            raise self.error(f"{self.name} is {self._shown()}, not a number", "write one such as 0.4")
        return value

    def whole(self) -> int:
        """Return a whole number."""
        if self._tag() != "int" or not re.fullmatch("[-+]?[0-9]+", self.yaml.value):
            raise self.error(f"{self.name} is {self._shown()}, not a whole number", "write one such as 3")
        return int(self.yaml.value)

    def truth(self) -> bool:
        """Return true or false."""
        if self._tag() != "bool":
            raise self.error(f"{self.name} is {self._shown()}, neither true nor false", "write true or false")
        return str(self.yaml.value).lower() in ("true", "yes", "on")

    def _tag(self) -> str:
        return str(self.yaml.tag).removeprefix(_TAG) if self.yaml.id == "scalar" else ""

    def _shown(self) -> str:
        return repr(self.yaml.value) if self.yaml.id == "scalar" else f"a {self.yaml.id}"


def read_yaml(file: Path) -> tuple[Node, str]:
    """Return the value that a YAML file holds, and its text.

    Raises:
        ModelNotFoundError: there is no such file.
        RecipeError: it is not YAML, or holds nothing.
        MissingDependencyError: PyYAML is not installed.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelNotFoundError(f"no grid in {str(file)!r}: {error.strerror}\nhint: give a YAML file") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not YAML: {error}\nhint: text in UTF-8") from error
    return _composed(text, str(file)), text


def as_yaml(values: Mapping[str, Any], name: str) -> tuple[Node, str]:
    """Return values as if they had been read from YAML, and its text; `name` stands for the file in messages.

    Raises:
        MissingDependencyError: PyYAML is not installed.
    """
    text: str = _yaml().safe_dump(dict(values), sort_keys=False, default_flow_style=None)
    return _composed(text, name), text


def _composed(text: str, file: str) -> Node:
    yaml = _yaml()
    try:
        value = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        what = getattr(error, "problem", None) or error
        raise RecipeError(f"{file}{where}: not YAML: {what}\nhint: `key: value` and `key: [value, ..]`") from error
    if value is None:
        raise RecipeError(f"{file} is empty\nhint: docs/sweep.md has an example")
    return Node(file, "the grid", value, value.start_mark.line + 1)


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingDependencyError('a grid needs PyYAML\nhint: pip install "foldflat[eval]"') from None
    return yaml
