"""Count the tokens of texts by a model's own tokenizer."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldflat.embedding.weights import TokenCounts
from foldflat.errors import DataError, RecipeError
from foldflat.evaluate.loading import load_tokenizer
from foldflat.evaluate.optional import require

__all__ = ["count_tokens", "tokenizer_in"]

_BATCH_TEXTS = 1000
_BATCH_CHARACTERS = 1 << 20


def count_tokens(texts: Iterable[str], tokenizer: Any, *, watch: Callable[[str], None] | None = None) -> TokenCounts:
    """Count how often each token occurs in texts, as calibration data for row weights.

    Texts are taken one batch at a time, whole, however long, and with the special tokens that the tokenizer puts
    around them, since every input has those; padding is not counted.

    Args:
        texts: strings, or `Texts(source)`.
        tokenizer: of transformers, or the folder or hub name of a model that has one.
        watch: called with a line of progress now and then.

    Raises:
        DataError: there is no tokenizer; something is not a string; no text has a token; all tokens are unknown.
    """
    if isinstance(texts, str):
        raise RecipeError("`texts` is one string; hint: give a list of strings, or `Texts(source)` for a file")
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = load_tokenizer(tokenizer)
    counts = np.zeros(max(tokenizer.get_vocab().values()) + 1, dtype=np.int64)
    read = 0
    for batch in _batches(texts):
        encoded = tokenizer(
            batch,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        ids = np.fromiter(itertools.chain.from_iterable(encoded["input_ids"]), dtype=np.int64)
        counts += np.bincount(ids, minlength=len(counts))
        read += len(batch)
        if watch is not None:
            watch(f"counting tokens: {counts.sum():,} in {read:,} texts")
    return _checked(counts, read, tokenizer)


def tokenizer_in(folder: str | os.PathLike[str]) -> Any:
    """Load the tokenizer in a folder that may hold no model: tokenizer.json, what transformers saves, or vocab.txt.

    A vocab.txt by itself is read as BERT's WordPiece, lower-cased unless it has words with capitals.

    Raises:
        DataError: there is none.
    """
    place = Path(folder)
    transformers = require("transformers", "hf")
    if (place / "tokenizer.json").is_file():
        file = place / "tokenizer.json"
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(file), unk_token=_unknown_token(file))
    if (place / "config.json").is_file() or (place / "tokenizer_config.json").is_file():
        return load_tokenizer(place)
    if (place / "vocab.txt").is_file():
        words = (place / "vocab.txt").read_text(encoding="utf-8").split()
        capitals = any(word != word.lower() for word in words if not word.startswith("["))
        return transformers.BertTokenizer(vocab=str(place / "vocab.txt"), do_lower_case=not capitals)
    raise DataError(
        f"folder {str(place)!r} has no tokenizer (tokenizer.json, vocab.txt); hint: name the folder or hub name of the "
        "model that has it, on the command line by `--tokenizer`"
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"a text is {text!r}; hint: give strings")
        batch.append(text)
        characters += len(text)
        if len(batch) == _BATCH_TEXTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _checked(counts: np.ndarray[Any, np.dtype[np.int64]], texts: int, tokenizer: Any) -> TokenCounts:
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    unknown = tokenizer.unk_token_id
    ordinary = int(counts.sum() - counts[sorted(special - {unknown})].sum())
    if not ordinary:
        raise DataError(f"{texts:,} texts hold no token; hint: is this the right file, and the right column?")
    n_unknown = 0 if unknown is None else int(counts[unknown])
    if n_unknown == ordinary:
        raise DataError(
            f"all {ordinary:,} tokens are {tokenizer.unk_token}: the vocabulary has none of them; hint: is this text "
            "in a language of the model, and the tokenizer the model's own?"
        )
    return TokenCounts(torch.from_numpy(counts), texts=texts, unknown_share=n_unknown / ordinary)


def _unknown_token(file: Path) -> str | None:
    model: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model"]
    token: str | None = model.get("unk_token")
    return token if model.get("unk_id") is None else str(model["vocab"][model["unk_id"]][0])
