"""Texts without labels, to compare sentence encoders on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foldflat.certify import Risk, cosine_error, example_hash, neighbours_lost
from foldflat.checkpoint import load
from foldflat.errors import DataError, ModelNotFoundError, RecipeError
from foldflat.evaluate import Texts, tokenizer_in
from foldflat.evaluate.sentences import MeanOfRows, encode_sentences, load_encoder
from foldflat.model.manifest import MANIFEST, read_manifest
from foldflat.pipeline import as_module
from foldflat.workflow.certificates.promise import different, repeats
from foldflat.workflow.certificates.texts import common_tokenizer
from foldflat.workflow.table_files import open_rows

__all__ = ["SentenceData", "Sentences"]

_BLOCK = 1024


@dataclass(frozen=True)
class SentenceData:
    """Say on which texts sentence encoders are compared.

    Attributes:
        texts: file, folder or data set, as `foldflat.evaluate.Texts` takes them.
        column: of rows with several.
        limit: documents to read at most.
        collection: texts that are searched, likewise, with all their columns; None: vectors are compared.
        neighbours: how many of the collection a text finds.

    Raises:
        RecipeError: no neighbours.
    """

    texts: str
    column: str | None = None
    limit: int | None = None
    collection: str | None = None
    neighbours: int = 10

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise RecipeError(f"{self.neighbours} neighbours\nhint: at least 1")

    def open(self, original: str, compressed: str) -> "tuple[Any, Any, Sentences]":
        """Return two encoders, and the texts to certify with.

        Raises:
            DataError: encoders of different vocabularies; fewer texts in the collection than neighbours.
        """
        texts = [text.strip() for text in Texts(self.texts, column=self.column, limit=self.limit)]
        if _is_table(compressed):
            rows = open_rows(original)
            if rows is None:
                raise ModelNotFoundError(
                    f"{compressed} holds a table, {original!r} is none\nhint: FILE.safetensors[:TENSOR] or FILE.npy"
                )
            tokenizer = tokenizer_in(Path(original).parent)
            first = MeanOfRows(as_module(rows[: rows.shape[0]]), tokenizer)
            second = MeanOfRows(load(compressed), tokenizer)
            return (
                first,
                second,
                self._examples([t for t, v in zip(texts, first.encode(texts), strict=True) if v.any()]),
            )
        common_tokenizer(_inner(original), _inner(compressed))
        return load_encoder(original), load_encoder(compressed), self._examples(texts)

    def _examples(self, texts: list[str]) -> "Sentences":
        found = tuple(Texts(self.collection)) if self.collection is not None else ()
        if self.collection is not None and len(found) < self.neighbours:
            raise DataError(f"{len(found)} texts to find {self.neighbours} neighbours in\nhint: a larger collection")
        about: dict[str, Any] = {"task": "texts", "split": Path(self.texts).name}
        if found:
            about["collection"] = (
                f"{self.neighbours} neighbours of {len(found):,} texts of {Path(self.collection).name}"  # type: ignore[arg-type]
            )
            about["collection_sha256"] = example_hash(str(self.neighbours), *found)
        hashes = [example_hash(text) for text in texts]
        about |= repeats(hashes)
        return Sentences(texts, found, self.neighbours, hashes, about).part(different(hashes))


@dataclass(frozen=True)
class Sentences:
    """Hold texts, and those among which their neighbours are looked for; see `Examples`."""

    texts: list[str]
    collection: tuple[str, ...]
    neighbours: int
    hashes: list[str]
    about: dict[str, Any]

    @property
    def risks(self) -> tuple[str, ...]:
        """Return what can be measured: of vectors, or of neighbours in a collection."""
        return ("neighbours-lost",) if self.collection else ("cosine-error",)

    def part(self, positions: list[int]) -> Self:
        """Return some of the examples."""
        texts, hashes = ([values[i] for i in positions] for values in (self.texts, self.hashes))
        return replace(self, texts=texts, hashes=hashes)

    def outputs(self, model: Any, *, progress: bool = False) -> NDArray[Any]:
        """Return vectors (n, d), or the positions (n, k) of the nearest texts of the collection."""
        vectors = encode_sentences(model, self.texts, progress=progress)
        if not self.collection:
            return vectors
        searched = encode_sentences(model, list(self.collection), progress=progress)
        for what, found in (("texts", vectors), ("texts of the collection", searched)):
            wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
            if len(wrong):
                raise DataError(
                    f"the vectors of {len(wrong)} of {len(found)} {what} are NaN or infinite, the first is number "
                    f"{wrong[0]}\nhint: nothing can be promised of a model that overflows; compute in float32"
                )
        return nearest(vectors, searched, self.neighbours)

    def measure(self, risk: str, original: NDArray[Any], compressed: NDArray[Any]) -> Risk:
        """Return a risk."""
        return (neighbours_lost if risk == "neighbours-lost" else cosine_error)(original, compressed)


def nearest(queries: NDArray[Any], collection: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Return the positions (n, k) of the vectors of a collection (m, d) of largest cosine to each query (n, d)."""
    unit = collection / np.linalg.norm(collection, axis=1, keepdims=True).clip(1e-30)
    found = [
        np.argpartition(-(queries[start : start + _BLOCK] @ unit.T), k - 1, axis=1)[:, :k]
        for start in range(0, len(queries), _BLOCK)
    ]
    return np.concatenate(found)


def _is_table(folder: str) -> bool:
    if not (Path(folder) / MANIFEST).is_file():
        return False
    return any(table["names"] == [""] for table in read_manifest(Path(folder))["tables"])


def _inner(name: str) -> str:
    from foldflat.model.hub.reading import transformer_module_path

    folder = Path(name)
    return str(folder / (transformer_module_path(folder) or "")) if folder.is_dir() else name
