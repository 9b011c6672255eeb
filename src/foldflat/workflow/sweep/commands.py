"""Say how to repeat a sweep, and one of its cells by hand."""

import shlex
from typing import Any

from foldflat.randomness import spawn_seeds
from foldflat.report.page.words import length, rate
from foldflat.workflow.sweep.methods import recipe_of

__all__ = ["commands_for"]

_OPTIONS = ("epochs", "max_steps", "learning_rate", "batch_size", "bf16", "tables")
"""What `foldflat finetune` has an option for."""


def commands_for(row: dict[str, Any], grid: str, folder: str) -> dict[str, Any]:
    """Return the commands that repeat a sweep, and those that repeat one cell: fine-tune, compress, fine-tune again.

    Args:
        row: the cell.
        grid: text of the grid, "" where it is not known; then there are no commands for the cell.
        folder: of the results.

    Returns:
        `sweep`, `cell`: lines; `label`: which cell; `notes`: what these commands leave out.
    """
    sweep = [f"foldflat sweep grid.yaml -o {shlex.quote(folder)}"]
    sweep += [f"foldflat report {shlex.quote(folder)} -o report.html"]
    values = _parsed(grid)
    if not values:
        return {"sweep": sweep, "cell": [], "label": "", "notes": []}
    at = "" if row["rate"] is None else f" at {rate(row['rate'])}"
    training = values.get("training") or {}
    # as the grid's reader has it: a parent's run is a later one with changes
    parent = {**{name: value for name, value in training.items() if name != "teacher"}, **(values.get("parent") or {})}
    after = {**training, "learning_rate": row["learning_rate"] or training.get("learning_rate")}
    seeds = spawn_seeds(row["seed"], 2)
    unit = "epochs" if row["max_steps"] is None else "max_steps"
    first = _finetune(row["model"], "parent", row, values["data"], seeds[0], parent)
    second = _finetune("small", "tuned", row, values["data"], seeds[1], {**after, unit: row[unit]})
    score = ["foldflat", "evaluate", "small", "--task", row["task"], "--data", values["data"]]
    lines = [first, _compress(row, values["data"]), second if row[unit] else score]
    return {
        "sweep": sweep,
        "cell": [shlex.join(line) for line in lines if line],
        "label": f"{row['task']}, {row['method']}{at}, seed {row['seed']}, {length(row)}",
        "notes": _notes({"parent": parent, **({"training": after} if row[unit] else {})}),
    }


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
    """Return the command of a method, [] for the one that leaves the model as it is."""
    method = row.get("chosen", row["method"])
    recipe = recipe_of(method.removesuffix("-weighted"), row["rate"], row["seed"])
    if recipe is None:
        return ["cp", "-r", "parent", "small"]
    line = ["foldflat", "compress", "parent", "--method", recipe.method, "--seed", str(recipe.seed)]
    if row["rate"] is not None:
        line += ["--keep", str(recipe.keep_ratio)]
    if recipe.n_subspaces != "auto":
        line += ["--subspaces", str(recipe.n_subspaces)]
    if not recipe.free_ranks:
        line.append("--equal-ranks")
    if method.endswith("-weighted"):
        line += ["--text", f"{data}:{row['task']}:train"]
    return [*line, "-o", "small"]


def _notes(stages: dict[str, dict[str, Any]]) -> list[str]:
    """Say what the commands cannot repeat."""
    notes = []
    for stage, settings in stages.items():
        several = settings.get("learning_rate")
        if isinstance(several, list) and len(several) > 1:
            tried = ", ".join(str(value) for value in several)
            notes.append(
                f"The {stage}'s learning rate was chosen among {tried} by short runs, and the command has the first; "
                "the JSON of the cell's parent in the folder of results has the one that was chosen."
            )
        others = [f"{name}: {value}" for name, value in settings.items() if name not in (*_OPTIONS, "trial_steps")]
        if others:
            notes.append(
                f"`foldflat finetune` has no option for what the grid sets for the {stage} ({', '.join(others)}), so "
                "by hand the figures come out otherwise."
            )
    return notes
