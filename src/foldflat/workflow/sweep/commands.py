"""Say how to repeat a sweep, and one of its cells by hand."""

import shlex
from typing import Any

from foldflat.randomness import spawn_seeds
from foldflat.report.page.words import length, rate
from foldflat.workflow.sweep.grid import OF_TEACHERS
from foldflat.workflow.sweep.methods import is_weighted, recipe_of

__all__ = ["commands_for"]

_OPTIONS = (
    "epochs",
    "max_steps",
    "learning_rate",
    "batch_size",
    "bf16",
    "group_by_length",
    "hold_out",
    "patience",
    "teacher",
    "teacher_weight",
    "tables",
)
"""What `foldflat finetune` has an option for."""

_OF_CHOICES = ("trial_steps",)
"""What matters to the choice of a learning rate only."""


def commands_for(row: dict[str, Any], grid: str, folder: str, parent_rate: float | None = None) -> dict[str, Any]:
    """Return the commands that repeat a sweep, and those that repeat one cell: fine-tune, compress, fine-tune again.

    Args:
        row: the cell.
        grid: text of the grid, "" where it is not known; then there are no commands for the cell.
        folder: of the results.
        parent_rate: learning rate that the cell's parent was trained with, where that is known.

    Returns:
        `sweep`, `cell`: lines; `label`: which cell; `notes`: what these commands leave out.
    """
    sweep = [f"foldflat sweep grid.yaml -o {shlex.quote(folder)}"]
    sweep += [f"foldflat report {shlex.quote(folder)} -o report.html"]
    values = _parsed(grid)
    if not values:
        return {"sweep": sweep, "cell": [], "label": "", "notes": []}
    at = "" if row["rate"] is None else f" at {rate(row['rate'])}"
    parent, after = _stages(values, row, parent_rate)
    data, seeds = values["data"], spawn_seeds(row["seed"], 2)
    first = _finetune(row["model"], "parent", row, data, seeds[0], parent)
    if row["epochs"] or row["max_steps"]:
        last = _finetune("small", "tuned", row, data, seeds[1], after)
    else:
        last = ["foldflat", "evaluate", "small", "--task", row["task"], "--data", data]
    return {
        "sweep": sweep,
        "cell": [shlex.join(line) for line in (first, _compress(row, data), last)],
        "label": f"{row['task']}, {row['method']}{at}, seed {row['seed']}, {length(row)}",
        "notes": _notes({"parent": parent, "run after compression": after}, weighted=is_weighted(row["method"])),
    }


def _stages(
    values: dict[str, Any], row: dict[str, Any], parent_rate: float | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of a cell's parent and of its run after compression, {} where there is none."""
    training = values.get("training") or {}
    # as the grid's reader has it: a parent's run is a later one with changes, and has no teacher
    parent = {name: value for name, value in training.items() if name not in OF_TEACHERS}
    parent |= values.get("parent") or {}
    if parent_rate is not None:
        parent["learning_rate"] = parent_rate
    unit = "epochs" if row["max_steps"] is None else "max_steps"
    after = {**training, unit: row[unit]} if row[unit] else {}
    if after and row["learning_rate"] is not None:
        after["learning_rate"] = row["learning_rate"]
    if after.get("teacher"):
        after["teacher"] = "parent"
    return parent, after


def _parsed(grid: str) -> dict[str, Any]:
    """Return the values of a grid, {} where there is none that can be read; the sweep has checked them."""
    try:
        import yaml
    except ImportError:
        return {}
    try:
        values = yaml.safe_load(grid)
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) and isinstance(values.get("data"), str) else {}


def _finetune(
    model: str, target: str, row: dict[str, Any], data: str, seed: int, settings: dict[str, Any]
) -> list[str]:
    line = ["foldflat", "finetune", model, "--task", row["task"], "--data", data, "--seed", str(seed)]
    for name in _OPTIONS:
        value = settings.get(name)
        if isinstance(value, list):
            value = value[0]
        option = f"--{name.replace('_', '-')}"
        if value is True:
            line.append(option)
        elif value is not None and value is not False:
            line += [option, str(value)]
    return [*line, "-o", target]


def _compress(row: dict[str, Any], data: str) -> list[str]:
    """Return the command of a method; the one that leaves the model as it is needs a copy."""
    method = row.get("chosen", row["method"])
    recipe = recipe_of(method, row["rate"], row["seed"], table_bytes=row["table"].get("size_bytes_before", 0))
    if recipe is None:
        return ["cp", "-r", "parent", "small"]
    line = ["foldflat", "compress", "parent", "--method", recipe.method, "--seed", str(recipe.seed)]
    if recipe.budget_bytes is not None:
        line += ["--budget", str(recipe.budget_bytes), "--coefficients", recipe.coefficients]
    elif row["rate"] is not None:
        line += ["--keep", str(recipe.keep_ratio)]
    if recipe.n_subspaces != "auto":
        line += ["--subspaces", str(recipe.n_subspaces)]
    if not recipe.free_ranks:
        line.append("--equal-ranks")
    if recipe.row_weights is not None:
        line += ["--text", f"{data}:{row['task']}:train"]
    return [*line, "-o", "small"]


def _notes(stages: dict[str, dict[str, Any]], *, weighted: bool) -> list[str]:
    """Say what the commands cannot repeat."""
    notes = []
    for stage, settings in stages.items():
        several = settings.get("learning_rate")
        if isinstance(several, list) and len(several) > 1:
            tried = ", ".join(str(value) for value in several)
            notes.append(
                f"The learning rate of the {stage} was chosen among {tried} by short runs, and the command has the "
                "first of them; the folder of results knows which it was."
            )
        others = [f"{name}: {value}" for name, value in settings.items() if name not in (*_OPTIONS, *_OF_CHOICES)]
        if others:
            notes.append(
                f"`foldflat finetune` has no option for what the grid sets for the {stage} ({', '.join(others)}), so "
                "by hand the figures come out otherwise."
            )
    if weighted:
        notes.append(
            "`--text` counts the tokens of whole texts, the sweep those of training rows as they are cut and paired, "
            "so by hand the weights come out a little otherwise."
        )
    return notes
