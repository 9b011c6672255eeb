"""The grid of a sweep: what is compared, read from YAML and checked once."""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from foldflat.errors import FoldflatError, RecipeError
from foldflat.evaluate import TrainingSettings, glue_task
from foldflat.workflow.sweep.methods import check_method, rates_of
from foldflat.workflow.sweep.nodes import Node, as_yaml, read_yaml

__all__ = ["OF_TEACHERS", "Grid", "Stage", "grid_of_options", "read_grid"]

Value = TypeVar("Value")

_AXES = ("models", "tasks", "methods", "seeds")
_LENGTHS = ("epochs", "max_steps")
_GIVEN = "the grid as given"
_RATES = ("rates", "byte_rates")
_KEYS = (*_AXES, "data", *_RATES, *_LENGTHS, "parent", "training")
_EXAMPLES = {"rates": "rates: [0.4]", "byte_rates": "byte_rates: [0.9375], which is 16 times smaller"}
_KINDS: dict[type, Callable[[Node], Any]] = {float: Node.number, int: Node.whole, bool: Node.truth, str: Node.text}
_SETTINGS = {
    field.name: _KINDS[field.type]  # type: ignore[index]
    for field in dataclasses.fields(TrainingSettings)
    if field.name != "seed"
}


OF_TEACHERS = ("teacher", "teacher_weight", "temperature")
"""What parents, which have no teacher, do not take from the settings of all runs."""

_TRAINING_KEYS = (*(name for name in _SETTINGS if name not in _LENGTHS), "trial_steps", "teacher")
_PARENT_KEYS = (*(name for name in _SETTINGS if name not in OF_TEACHERS), "trial_steps")


@dataclasses.dataclass(frozen=True)
class Stage:
    """Hold what the runs of one stage, the making of parents or the training after compression, have in common.

    Attributes:
        settings: but for the seed, and for the length where the grid gives several.
        learning_rates: where there is more than one, that of the best short run is taken.
        trial_steps: steps of such a run.
        teacher: distil from the uncompressed model.
    """

    settings: TrainingSettings
    learning_rates: tuple[float, ...]
    trial_steps: int | None = None
    teacher: bool = False

    @property
    def has_trials(self) -> bool:
        """Say whether short runs choose the learning rate."""
        return len(self.learning_rates) > 1


@dataclasses.dataclass(frozen=True)
class Grid:
    """Hold the axes of a sweep and what its runs have in common.

    Attributes:
        models: folders or hub names.
        tasks: names of GLUE tasks.
        methods: names, see `foldflat.workflow.sweep.methods`.
        rates: shares of the table's parameters to remove, between 0 and 1: the paper's compression.
        byte_rates: shares of its stored bytes to remove, for methods that are given a budget of bytes.
        seeds: each pairs all methods: same parent, same batches.
        unit: "epochs" or "max_steps", what `lengths` count.
        lengths: how long to fine-tune after compression; 0 for not at all.
        data: folder or hub name with the tasks.
        parent: of the run that makes a classifier of a model.
        training: of the runs after compression.
        file: where the grid was read, for messages.
        text: what it says there.
        lines: axis -> value -> line of the file.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    rates: tuple[float, ...]
    byte_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    unit: str
    lengths: tuple[float, ...]
    data: str
    parent: Stage
    training: Stage
    file: str
    text: str
    lines: dict[str, dict[Any, int]]

    def rates_of(self, method: str) -> tuple[float | None, ...]:
        """Return the sizes of a method; None alone where it has one."""
        axis = rates_of(method)
        return (None,) if axis is None else getattr(self, axis)

    @contextmanager
    def line_of(self, axis: str, value: Any) -> Iterator[None]:
        """Name the line of a value in what goes wrong while the block looks at it."""
        try:
            yield
        except FoldflatError as error:
            raise type(error)(f"{self.file}, line {self.lines[axis][value]}: {error}") from error


def read_grid(source: str | os.PathLike[str] | Mapping[str, Any]) -> Grid:
    """Read a grid.

    Args:
        source: a YAML file, or what it would hold.

    Raises:
        ModelNotFoundError: there is no such file.
        RecipeError: it is malformed; the message names the line.
    """
    node, text = as_yaml(source, _GIVEN) if isinstance(source, Mapping) else read_yaml(Path(source))
    file = node.file
    keys = node.mapping(_KEYS)
    missing = [key for key in (*_AXES, "data") if key not in keys]
    if missing:
        raise node.error(f"the grid has no `{missing[0]}`", f"it needs {', '.join((*_AXES, 'data'))}")
    lines: dict[str, dict[Any, int]] = {
        "models": keys["models"].items(Node.text),
        "tasks": keys["tasks"].items(_named(glue_task)),
        "methods": keys["methods"].items(_named(check_method)),
        "seeds": keys["seeds"].items(_seed),
        **{axis: keys[axis].items(_rate) if axis in keys else {} for axis in _RATES},
    }
    unit, lines["lengths"] = _lengths(node, keys)
    for name, line in lines["methods"].items():
        axis = rates_of(name)
        if axis is not None and not lines[axis]:
            raise RecipeError(f"{file}, line {line}: {name!r} needs `{axis}`\nhint: for one, {_EXAMPLES[axis]}")
    training = _stage_values(keys.get("training"), {}, _TRAINING_KEYS)
    common = {name: value for name, value in training.items() if name not in OF_TEACHERS}
    parent = _stage_values(keys.get("parent"), common, _PARENT_KEYS)
    _check_held_out(keys.get("parent", node), parent, training)
    return Grid(
        **{axis: tuple(lines[axis]) for axis in (*_AXES, *_RATES, "lengths")},
        unit=unit,
        data=keys["data"].text(),
        training=_stage(keys.get("training", node), training),
        parent=_stage(keys.get("parent", node), parent),
        file=file,
        text=text,
        lines=lines,
    )


def grid_of_options(file: Path | None, *, learning_rate: float | None = None, **axes: Any) -> Path | dict[str, Any]:
    """Return what `read_grid` reads: a file, or where there is none the axes that are given, by their names in a grid.

    Seeds are [0] where none is given.

    Raises:
        RecipeError: both are given, or nothing.
    """
    given = {name: value for name, value in axes.items() if value is not None}
    training = {} if learning_rate is None else {"training": {"learning_rate": learning_rate}}
    if file is not None:
        if given or training:
            raise RecipeError(
                f"{file} is given, and {', '.join(f'`{name}`' for name in (*given, *training))}\n"
                "hint: write everything into the file, or give no file"
            )
        return file
    if not given:
        raise RecipeError(
            "nothing to compare is given\nhint: a YAML file (docs/sweep.md), or --model, --data, --task, .."
        )
    return {"seeds": [0], **given, **training}


def _named(check: Callable[[str], Any]) -> Callable[[Node], str]:
    def read(node: Node) -> str:
        name = node.text()
        _checked(node, lambda: check(name))
        return name

    return read


def _checked(node: Node, call: Callable[[], Value]) -> Value:
    """Return what a call returns, with the line in front of what it says is wrong."""
    try:
        return call()
    except RecipeError as error:
        raise RecipeError(f"{node.file}, line {node.line}: {error}") from error


def _seed(node: Node) -> int:
    value = node.whole()
    _checked(node, lambda: TrainingSettings(seed=value))
    return value


def _rate(node: Node) -> float:
    value = node.number()
    if not 0 < value < 1:
        raise node.error(f"the rate {value:g} is outside (0, 1)", "the share of the table to remove, 0.4 for 40 %")
    return value


def _lengths(node: Node, keys: dict[str, Node]) -> tuple[str, dict[Any, int]]:
    given = [unit for unit in _LENGTHS if unit in keys]
    if len(given) != 1:
        which = "both `epochs` and `max_steps`" if given else "neither `epochs` nor `max_steps`"
        raise node.error(f"the grid has {which}", "one of them: how long to fine-tune after compression, as in [0, 2]")
    read = Node.number if given == ["epochs"] else Node.whole

    def length(item: Node) -> float:
        value: float = read(item)
        if value < 0:
            raise item.error(f"{given[0]} of {value:g}", "at least 0, which is no fine-tuning")
        return value

    return given[0], keys[given[0]].items(length)


def _stage_values(node: Node | None, common: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return the values that a mapping gives a stage, on top of common ones."""
    if node is None:
        return common
    found = node.mapping(known)
    if all(unit in found for unit in _LENGTHS):
        raise found["max_steps"].error(f"{node.name} has both `epochs` and `max_steps`", "keep one of them")
    return {**common, **{name: _stage_value(name, value) for name, value in found.items()}}


def _check_held_out(node: Node, parent: dict[str, Any], training: dict[str, Any]) -> None:
    own, later = (stage.get("hold_out", 0.0) for stage in (parent, training))
    if own < later:
        raise node.error(
            f"{node.name} holds out {own:g} of the training rows and `training` {later:g}, so that cells would be "
            "judged by rows that their parent was trained on",
            "leave `hold_out` out of `parent`, or give it as much",
        )


def _stage_value(name: str, node: Node) -> Any:
    if name == "trial_steps":
        steps = node.whole()
        if steps < 1:
            raise node.error(f"`trial_steps` is {steps}", "at least 1")
        return steps
    if name == "teacher":
        return node.truth()
    if name == "learning_rate":
        return tuple(node.items(_learning_rate)) if node.is_list else (_learning_rate(node),)
    value = _SETTINGS[name](node)
    if name != "patience":  # which needs another
        _checked(node, lambda: TrainingSettings(**{name: value}))
    return value


def _learning_rate(node: Node) -> float:
    value = node.number()
    _checked(node, lambda: TrainingSettings(learning_rate=value))
    return value


def _stage(node: Node, values: dict[str, Any]) -> Stage:
    """Check what the values of a stage are together, against the line where the stage begins."""
    own = dict(values)
    rates = own.pop("learning_rate", (TrainingSettings.learning_rate,))
    steps, teacher = own.pop("trial_steps", None), own.pop("teacher", False)
    settings = _checked(node, lambda: TrainingSettings(learning_rate=rates[0], **own))
    if len(rates) > 1 and not (steps and settings.hold_out):
        raise node.error(
            f"{node.name} has {len(rates)} learning rates to choose from, and no "
            f"{'`hold_out`' if steps else '`trial_steps`'}",
            "short runs, scored on rows that are held out, decide: trial_steps: 100, hold_out: 0.05",
        )
    return Stage(settings, rates, steps, teacher)
