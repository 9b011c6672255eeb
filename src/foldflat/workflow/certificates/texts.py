"""Labelled texts of the nine GLUE tasks, to compare classifiers on."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foldflat.certify import Risk, accuracy_drop, disagreement, example_hash, score_drop
from foldflat.errors import DataError, RecipeError
from foldflat.evaluate import glue_task, load_classifier, load_split, load_tokenizer, predict_logits, read_task
from foldflat.evaluate.glue import SIMILARITY_RANGE
from foldflat.workflow.certificates.promise import different, repeats

__all__ = ["ClassifiedTexts", "TaskData", "common_tokenizer"]


@dataclass(frozen=True)
class TaskData:
    """Say on which texts classifiers are compared.

    Attributes:
        task: one of the nine GLUE tasks.
        data: folder or hub name of the data.
        split: held-out rows, that neither model nor compression has seen.
        plan_split: rows by which a search chooses what to test.

    Raises:
        RecipeError: an unknown task; certifying on what was trained on, or on what was planned with.
    """

    task: str
    data: str
    split: str = "validation"
    plan_split: str = "train"

    def __post_init__(self) -> None:
        glue_task(self.task)
        if self.split.startswith("train"):
            raise RecipeError(
                f"split {self.split!r} was trained on, so it says nothing about other texts\nhint: validation"
            )
        if self.split == self.plan_split:
            raise RecipeError(
                f"split {self.split!r} is to choose what is tested, and to certify it\nhint: two splits; who chooses "
                "by examples cannot promise on the same"
            )

    def open(self, original: str, compressed: str) -> "tuple[Any, Any, ClassifiedTexts]":
        """Return two classifiers, and the texts to certify with.

        Raises:
            DataError: models of other labels or vocabularies.
        """
        tokenizer = common_tokenizer(original, compressed)
        examples = self.examples(self.split, tokenizer)
        task = glue_task(self.task)
        models = (load_classifier(name, task, tokenizer=tokenizer, new_head=False) for name in (original, compressed))
        return next(models), next(models), examples

    def texts(self, split: str) -> set[str]:
        """Return the texts of a split, of all columns."""
        rows, _ = read_task(self.data, self.task, split)
        return {text for column in glue_task(self.task).text_columns for text in rows[column][:]}

    def examples(self, split: str, tokenizer: Any) -> "ClassifiedTexts":
        """Return the different examples of a split."""
        rows, labels = read_task(self.data, self.task, split)
        columns = [rows[column][:] for column in glue_task(self.task).text_columns]
        hashes = [
            example_hash(self.task, *texts, str(label)) for *texts, label in zip(*columns, labels.tolist(), strict=True)
        ]
        tokens = load_split(self.data, self.task, split, tokenizer=tokenizer)
        about = {"task": self.task, "split": split, **repeats(hashes)}
        return ClassifiedTexts(tokens, tokenizer, self.task, hashes, about).part(different(hashes))


@dataclass(frozen=True)
class ClassifiedTexts:
    """Hold tokenised texts with their labels; see `Examples`."""

    rows: Any
    tokenizer: Any
    task: str
    hashes: list[str]
    about: dict[str, Any]

    @property
    def risks(self) -> tuple[str, ...]:
        """Return the risks of classifiers, or of a regression."""
        return ("accuracy-drop", "disagreement") if glue_task(self.task).labels else ("score-drop",)

    def part(self, positions: list[int]) -> Self:
        """Return some of the examples."""
        return replace(self, rows=self.rows.select(positions), hashes=[self.hashes[i] for i in positions])

    def outputs(self, model: Any, *, progress: bool = False) -> NDArray[Any]:
        """Return logits (n, labels)."""
        return predict_logits(model, self.rows, tokenizer=self.tokenizer, progress=progress)

    def measure(self, risk: str, original: NDArray[Any], compressed: NDArray[Any]) -> Risk:
        """Return a risk; "score-drop" is of a score from 1, the annotators' mean, to 0, as far off as can be."""
        if risk == "disagreement":
            return disagreement(original, compressed)
        labels = np.asarray(self.rows["labels"][:])
        if risk == "accuracy-drop":
            return accuracy_drop(original, compressed, labels)
        return score_drop(_closeness(original, labels), _closeness(compressed, labels))


def common_tokenizer(original: str, compressed: str) -> Any:
    """Return the tokenizer of two models.

    Raises:
        DataError: they have different ones.
    """
    tokenizers = [load_tokenizer(name) for name in (original, compressed)]
    if tokenizers[0].get_vocab() != tokenizers[1].get_vocab():
        raise DataError(
            f"{original!r} and {compressed!r} have different vocabularies, so one was not made of the other\n"
            "hint: the model before compression, and the one after it"
        )
    return tokenizers[0]


def _closeness(predicted: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    low, high = SIMILARITY_RANGE
    values = np.asarray(predicted, dtype=np.float64)[:, 0]
    found: NDArray[np.float64] = 1 - np.abs(values.clip(low, high) - labels) / (high - low)
    return found
