"""Vectors of sentences: by a sentence encoder, or as the mean of the rows of a table."""

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foldflat.errors import DataError
from foldflat.evaluate.isolation import quiet_transformers
from foldflat.evaluate.names import local_folder
from foldflat.evaluate.optional import require

__all__ = ["MeanOfRows", "encode_sentences", "load_encoder"]

_BATCH = 64


class MeanOfRows(nn.Module):
    """Give each sentence the mean of its tokens' rows, special and unknown tokens left out.

    Args:
        table: a module that looks rows up.
        tokenizer: of transformers.
    """

    def __init__(self, table: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.table, self._tokenizer = table, tokenizer

    def encode(self, sentences: list[str], *, batch_size: int = _BATCH, **_: Any) -> NDArray[np.float32]:
        """Return vectors (n, d); zero for a sentence without a token. Rows of one batch are held at a time."""
        starts = range(0, len(sentences), batch_size)
        return np.concatenate([self._means(sentences[start : start + batch_size]) for start in starts])

    @torch.no_grad()
    def _means(self, sentences: list[str]) -> NDArray[np.float32]:
        left_out = {*self._tokenizer.all_special_ids}
        read = self._tokenizer(sentences, add_special_tokens=False, verbose=False)["input_ids"]
        tokens = [torch.tensor([i for i in ids if i not in left_out], dtype=torch.int64) for ids in read]
        lengths = torch.tensor([len(ids) for ids in tokens])
        rows = self.table(torch.cat(tokens)).float()
        sums = torch.zeros(len(tokens), rows.shape[1]).index_add_(
            0, torch.repeat_interleave(torch.arange(len(tokens)), lengths), rows
        )
        means: NDArray[np.float32] = (sums / lengths.clamp(min=1)[:, None]).numpy()
        return means


def load_encoder(name: str | os.PathLike[str]) -> Any:
    """Load a sentence encoder from a folder or the hub; a plain model of transformers is mean-pooled.

    Raises:
        DataError: it cannot be loaded.
        MissingDependencyError: sentence-transformers is not installed.
    """
    source = str(local_folder(name) or name)
    library = require("sentence_transformers", "sentences")
    try:
        with quiet_transformers():
            return library.SentenceTransformer(source, device="cuda" if torch.cuda.is_available() else "cpu").eval()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{source!r} cannot be loaded as a sentence encoder: {error}") from error


def encode_sentences(encoder: Any, sentences: list[str], *, progress: bool = False) -> NDArray[np.float32]:
    """Return vectors (n, d) of sentences.

    Args:
        encoder: of sentence-transformers, or a `MeanOfRows`.
        sentences: at least one.
        progress: show a bar.
    """
    if not sentences:
        raise DataError("no sentences\nhint: at least one")
    vectors: NDArray[np.float32] = encoder.encode(
        sentences, batch_size=_BATCH, show_progress_bar=progress, convert_to_numpy=True
    )
    return vectors
