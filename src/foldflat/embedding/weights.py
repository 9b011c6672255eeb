"""Row weights: which rows matter, from counts."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldflat.errors import DataError, ModelNotFoundError, RecipeError

__all__ = ["COUNT_POWER", "resolve_row_weights"]

COUNT_POWER = 0.5
"""Counts are raised to this power: words follow Zipf's law, and what rare ones lose still shows."""

_FLOOR = 1e-6


def resolve_row_weights(
    given: Tensor | np.ndarray[Any, Any] | str | os.PathLike[str] | None,
    n: int,
    *,
    name: str,
    calibration: Any = None,
    vocabulary: dict[str, int] | None = None,
) -> Tensor | None:
    """Return (n,) positive float64 weights as a recipe asks, or None.

    Args:
        given: the recipe's `row_weights`. Rows that were not counted count once, or as the rarest where
            counts are shares.
        n: rows of the table.
        name: of the table, for messages.
        calibration: one batch or an iterable of batches, for "auto": tensors of ids, or dicts with "input_ids".
        vocabulary: token -> row, for counts by token.

    Raises:
        RecipeError: "auto" without calibration data; counts by token without a vocabulary.
        DataError: wrong length, negative, not finite or all zero.
    """
    if given is None:
        return None
    if isinstance(given, str | os.PathLike):
        counts = _counts(os.fspath(given), n, calibration, vocabulary)
        checked = _checked(counts, n, name)
        # what was not seen in a sample of text will be seen some day
        return checked.clamp_min(min(1.0, float(counts[counts > 0].min()))) ** COUNT_POWER
    return _checked(torch.as_tensor(given), n, name)


def _checked(weights: Tensor, n: int, name: str) -> Tensor:
    values = weights.detach().to("cpu", torch.float64)
    if values.shape != (n,):
        raise DataError(f"row weights have shape {tuple(values.shape)}, but table `{name}` has {n} rows")
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise DataError(f"row weights of table `{name}` must be finite and at least 0")
    if not bool((values > 0).any()):
        raise DataError(f"row weights of table `{name}` are all zero; hint: give at least one row a positive weight")
    # a row that never occurs still needs a subspace, and costs parameters there
    return values.clamp_min(_FLOOR * float(values.max()))


def _counts(source: str, n: int, calibration: Any, vocabulary: dict[str, int] | None) -> Tensor:
    if source == "auto":
        return _counts_of_ids(calibration, n)
    path = Path(source)
    if not path.is_file():
        raise ModelNotFoundError(f'row weights file {source!r} does not exist; hint: give .npy, .json or "auto"')
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix != ".json":
        raise RecipeError(f"row weights file {source!r} is neither .npy nor .json")
    if vocabulary is None:
        raise RecipeError(
            f"{source!r} counts tokens, but the model has no tokenizer; hint: give an .npy with {n} counts"
        )
    counts = torch.zeros(n, dtype=torch.float64)
    by_token = json.loads(path.read_text(encoding="utf-8"))
    known = {token: count for token, count in by_token.items() if token in vocabulary}
    if not known:
        raise DataError(f"none of the {len(by_token)} tokens in {source!r} is in the model's vocabulary")
    for token, count in known.items():
        counts[vocabulary[token]] = count
    return counts


def _counts_of_ids(calibration: Any, n: int) -> Tensor:
    if calibration is None:
        raise RecipeError('`row_weights` is "auto", which counts tokens; hint: give `calibration` with input ids')
    batches: Iterable[Any] = [calibration] if isinstance(calibration, Tensor | Mapping) else calibration
    counts = torch.zeros(n, dtype=torch.float64)
    for batch in batches:
        ids = batch if isinstance(batch, Tensor) else batch["input_ids"]
        mask = None if isinstance(batch, Tensor) else batch.get("attention_mask")
        chosen = torch.as_tensor(ids).reshape(-1) if mask is None else torch.as_tensor(ids)[torch.as_tensor(mask) > 0]
        counts += torch.bincount(chosen.cpu(), minlength=n)[:n].double()
    return counts
