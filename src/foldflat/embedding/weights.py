"""Row weights: which rows matter, from counts."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldflat.embedding.base import titled
from foldflat.errors import DataError, ModelNotFoundError, RecipeError

__all__ = ["COUNT_POWER", "TokenCounts", "resolve_row_weights", "weights_and_counts"]

COUNT_POWER = 0.5
"""Counts are raised to this power: words follow Zipf's law, and what rare ones lose still shows."""

_FLOOR = 1e-6
_OTHER_VOCABULARY = "hint: are they counts for the vocabulary of another model?"


@dataclass(frozen=True)
class TokenCounts:
    """Hold how often each token occurs in texts; calibration data of a recipe whose `row_weights` are "auto".

    Attributes:
        counts: (v,) whole numbers, by token id.
        texts: how many were read.
        unknown_share: of the tokens that are not special ones, how many the vocabulary does not have.
    """

    counts: Tensor
    texts: int = 0
    unknown_share: float = 0.0

    @property
    def tokens(self) -> int:
        """Return how many tokens were counted, special ones among them."""
        return int(self.counts.sum())

    def for_rows(self, n: int, name: str) -> Tensor:
        """Return (n,) counts of a table's rows; those beyond the tokenizer's vocabulary are 0.

        Raises:
            DataError: a token was counted that has no row.
        """
        beyond = int((self.counts[n:] > 0).sum())
        if beyond:
            raise DataError(
                f"the texts have {beyond:,} tokens whose id is {n} or more, but {titled(name)} has {n} rows; "
                + _OTHER_VOCABULARY
            )
        counts = torch.zeros(n, dtype=torch.int64)
        counts[: len(self.counts)] = self.counts[:n]
        return counts

    def warnings(self, n: int, name: str) -> list[str]:
        """Return what speaks against these counts as those of a table of n rows."""
        found = []
        if self.unknown_share > 0.5:
            found.append(
                f"{self.unknown_share:.0%} of the tokens counted are unknown to the vocabulary: is this text in a "
                "language of the model, and the tokenizer the model's own?"
            )
        if not 0.9 * n <= len(self.counts) <= 1.1 * n:
            found.append(
                f"the tokenizer has {len(self.counts):,} tokens, {titled(name)} {n:,} rows: is it the model's own?"
            )
        return found


def resolve_row_weights(
    given: Tensor | np.ndarray[Any, Any] | str | os.PathLike[str] | None,
    n: int,
    *,
    name: str,
    calibration: Any = None,
    vocabulary: dict[str, int] | None = None,
) -> Tensor | None:
    """Return (n,) positive float64 weights as a recipe asks, or None; see `weights_and_counts`."""
    return weights_and_counts(given, n, name=name, calibration=calibration, vocabulary=vocabulary)[0]


def weights_and_counts(
    given: Tensor | np.ndarray[Any, Any] | str | os.PathLike[str] | None,
    n: int,
    *,
    name: str,
    calibration: Any = None,
    vocabulary: dict[str, int] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return (n,) positive float64 weights as a recipe asks, or None, and the (n,) counts that they come from, if any.

    Args:
        given: the recipe's `row_weights`. Rows that were not counted count once, or as the rarest where
            counts are shares, and never less than a millionth of the most frequent: at power 1/2 no row weighs more
            than a thousand times as much as another.
        n: rows of the table.
        name: of the table, for messages.
        calibration: for "auto": TokenCounts, one batch or an iterable of batches: tensors of ids, or dicts with
            "input_ids".
        vocabulary: token -> row, for counts by token.

    Raises:
        RecipeError: "auto" without calibration data; counts by token without a vocabulary.
        DataError: wrong length, negative, not finite or all zero; a file that cannot be read; ids without a row.
    """
    if given is None:
        return None, None
    if isinstance(given, str | os.PathLike):
        counts = _counts(os.fspath(given), n, name, calibration, vocabulary)
        checked = _checked(counts, n, name)
        # what was not seen in a sample of text will be seen some day
        return checked.clamp_min(min(1.0, float(counts[counts > 0].min()))) ** COUNT_POWER, counts.double()
    return _checked(torch.as_tensor(given), n, name), None


def _checked(weights: Tensor, n: int, name: str) -> Tensor:
    values = weights.detach().to("cpu", torch.float64)
    if values.shape != (n,):
        raise DataError(
            f"row weights have shape {tuple(values.shape)}, but {titled(name)} has {n} rows; {_OTHER_VOCABULARY}"
        )
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise DataError(f"row weights of {titled(name)} must be finite and at least 0")
    if not bool((values > 0).any()):
        raise DataError(f"row weights of {titled(name)} are all zero; hint: give at least one row a positive weight")
    # a row that never occurs still needs a subspace, and costs parameters there
    return values.clamp_min(_FLOOR * float(values.max()))


def _counts(source: str, n: int, name: str, calibration: Any, vocabulary: dict[str, int] | None) -> Tensor:
    if source == "auto":
        return _counts_of_ids(calibration, n, name)
    path = Path(source)
    if not path.is_file():
        raise ModelNotFoundError(f'row weights file {source!r} does not exist; hint: give .npy, .json or "auto"')
    if path.suffix == ".npy":
        return _counts_of_array(path)
    if path.suffix != ".json":
        raise RecipeError(f"row weights file {source!r} is neither .npy nor .json")
    if vocabulary is None:
        raise RecipeError(
            f"{source!r} counts tokens, but the model has no tokenizer; hint: give an .npy with {n} counts"
        )
    known = _known_tokens(path, vocabulary)
    beyond = [token for token in known if vocabulary[token] >= n]
    if beyond:
        raise DataError(
            f"{source!r} counts {beyond[0]!r}, which is row {vocabulary[beyond[0]]}, but {titled(name)} has {n} rows; "
            + _OTHER_VOCABULARY
        )
    counts = torch.zeros(n, dtype=torch.float64)
    for token, count in known.items():
        counts[vocabulary[token]] = count
    return counts


def _counts_of_array(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False)).double()
    except (ValueError, EOFError, TypeError) as error:
        raise DataError(f"row weights file {str(path)!r} holds no counts ({error})") from error


def _known_tokens(path: Path, vocabulary: dict[str, int]) -> dict[str, float]:
    try:
        by_token = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"row weights file {str(path)!r} is not JSON ({error})") from error
    if not isinstance(by_token, dict) or not all(isinstance(count, int | float) for count in by_token.values()):
        raise DataError(f'row weights file {str(path)!r} is not token -> count; hint: write {{"the": 120, "of": 80}}')
    known = {token: count for token, count in by_token.items() if token in vocabulary}
    if not known:
        raise DataError(
            f"none of the {len(by_token)} tokens in {str(path)!r} is in the model's vocabulary; {_OTHER_VOCABULARY}"
        )
    return known


def _counts_of_ids(calibration: Any, n: int, name: str) -> Tensor:
    if calibration is None:
        raise RecipeError(
            '`row_weights` is "auto", which counts tokens; hint: give `calibration` with input ids, or on the command '
            "line `--text` with a file or data set"
        )
    if isinstance(calibration, TokenCounts):
        return calibration.for_rows(n, name)
    batches: Iterable[Any] = [calibration] if isinstance(calibration, Tensor | Mapping) else calibration
    counts = torch.zeros(n, dtype=torch.float64)
    for batch in batches:
        ids = batch if isinstance(batch, Tensor) else batch["input_ids"]
        mask = None if isinstance(batch, Tensor) else batch.get("attention_mask")
        chosen = torch.as_tensor(ids).reshape(-1) if mask is None else torch.as_tensor(ids)[torch.as_tensor(mask) > 0]
        if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < n:
            raise DataError(
                f"the calibration data has ids from {int(chosen.min())} to {int(chosen.max())}, but {titled(name)} has "
                f"{n} rows; hint: `include` the table of these ids alone"
            )
        counts += torch.bincount(chosen.cpu(), minlength=n).double()
    return counts
