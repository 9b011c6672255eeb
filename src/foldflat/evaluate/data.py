"""Splits of GLUE tasks as tokenised data sets, from the hub or from a folder in the hub's schema."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldflat.errors import DataError, RecipeError
from foldflat.evaluate.glue import SIMILARITY_RANGE, GlueTask, glue_task, resolve_split
from foldflat.evaluate.isolation import datasets_bars_off
from foldflat.evaluate.reading import read_split

__all__ = ["load_split", "read_task"]


def load_split(
    data: str | os.PathLike[str],
    task: str,
    split: str = "validation",
    *,
    tokenizer: Any,
    max_length: int = 128,
    max_examples: int | None = None,
) -> Any:
    """Read and tokenise one split of a GLUE task: a `datasets.Dataset` of model inputs and `labels`.

    `data` is a hub name such as `nyu-mll/glue` or a folder that `datasets.load_dataset(data, task)` reads;
    nothing is written into it. A text is cut to `max_length` tokens, or to the tokenizer's own limit where
    that is smaller; `max_examples` keeps the first so many rows.

    Raises ModelNotFoundError where there is no such folder or data set; DataError for a split, column, text
    or label that is missing or not what the task has; RecipeError for settings out of range.
    """
    with datasets_bars_off():
        rows, labels = read_task(data, task, split, max_examples=max_examples)
        return _tokenise(rows, glue_task(task), labels, tokenizer, max_length)


def read_task(
    data: str | os.PathLike[str], task: str, split: str = "validation", *, max_examples: int | None = None
) -> tuple[Any, NDArray[Any]]:
    """Read and check one split of a GLUE task; return its rows, and its labels (n,) as int64 or float32.

    Args and errors: as in `load_split`.
    """
    glue = glue_task(task)
    if max_examples is not None and max_examples < 1:
        raise RecipeError(f"`max_examples` is {max_examples}\nhint: at least 1, or None for all of them")
    with datasets_bars_off():
        rows = read_split(data, resolve_split(task, split), glue.name, example="`nyu-mll/glue`")
        if max_examples is not None:
            rows = rows.select(range(min(max_examples, len(rows))))
        _check_rows(rows, glue)
        return rows, _labels(rows, glue)


def _check_rows(rows: Any, glue: GlueTask) -> None:
    missing = [name for name in (*glue.text_columns, "label") if name not in rows.column_names]
    if missing:
        raise DataError(
            f"no column {', '.join(map(repr, missing))} of {glue.name} in {', '.join(rows.column_names)}\n"
            "hint: the columns are named as in `nyu-mll/glue`"
        )
    if len(rows) == 0:
        raise DataError(f"this split of {glue.name} has no rows")
    for column in glue.text_columns:
        for index, text in enumerate(rows[column][:]):
            if not isinstance(text, str):
                raise DataError(f"{glue.name}: column {column!r} of row {index} is {text!r}, not a text")


def _labels(rows: Any, glue: GlueTask) -> NDArray[Any]:
    """Return the labels (n,): int64 class numbers, or float32 similarities of a regression."""
    names = getattr(rows.features["label"], "names", None)
    if names is not None and tuple(names) != glue.labels:
        raise DataError(f"the labels are named {names}, those of {glue.name} {list(glue.labels)}, in this order")
    try:
        labels = np.asarray(rows["label"][:], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"the labels of {glue.name} have to be numbers: {error}") from error
    if (labels == -1).all():
        raise DataError("every label is -1: they are hidden, as in GLUE's test splits\nhint: use another split")
    low, high = (0, glue.num_labels - 1) if glue.labels else SIMILARITY_RANGE
    bad = ~((labels >= low) & (labels <= high))
    if glue.labels:
        bad |= labels != np.floor(labels)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{bad.sum()} labels are none of {glue.name}, the first {labels[row]:g} in row {row}\n"
            f"hint: {glue.name} has {'whole numbers' if glue.labels else 'numbers'} from {low:g} to {high:g}"
        )
    return labels.astype(np.int64 if glue.labels else np.float32)


def _tokenise(rows: Any, glue: GlueTask, labels: NDArray[Any], tokenizer: Any, max_length: int) -> Any:
    limit = min(max_length, tokenizer.model_max_length)

    def encode(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        texts = [batch[column] for column in glue.text_columns]
        return {**tokenizer(*texts, truncation=True, max_length=limit), "labels": labels[indices]}

    return rows.map(
        encode,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        keep_in_memory=True,
        load_from_cache_file=False,
    )
