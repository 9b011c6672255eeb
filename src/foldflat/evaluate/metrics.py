"""The official metric of each GLUE task, and the classifier that any result has to beat."""

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foldflat.errors import DataError
from foldflat.evaluate.glue import GlueTask, glue_task

__all__ = ["beats_majority", "glue_metrics", "majority_baseline"]


def glue_metrics(task: str, logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Compute the official metrics of `task` from `logits` (n, labels of the task) and `labels` (n,).

    A correlation with predictions that are all equal is 0, as is an F1 without a predicted positive.
    Raises DataError for other shapes, no row, or logits that are not finite; RecipeError for an unknown task.
    """
    glue = glue_task(task)
    scores, truth = _checked(glue, logits, labels)
    predictions = scores.argmax(axis=1) if glue.labels else scores[:, 0]
    return {name: _METRICS[name](truth, predictions) for name in glue.metrics}


def majority_baseline(labels: ArrayLike) -> float:
    """Return the accuracy of always answering the commonest of `labels` (n,), at least one."""
    values = np.asarray(labels)
    if values.size == 0:
        raise DataError("`labels` is empty: there is no majority class")
    return float(np.unique(values, return_counts=True)[1].max() / values.size)


def beats_majority(accuracy: float, labels: ArrayLike) -> bool:
    """Say whether `accuracy` on `labels` (n,) exceeds the majority class by two standard errors.

    The standard error is that of a classifier as good as the majority class, sqrt(p (1 - p) / n); the
    accuracy's own would be smaller. Raises DataError for accuracies outside [0, 1] or no labels.
    """
    if not 0 <= accuracy <= 1:
        raise DataError(f"`accuracy` is {accuracy}\nhint: a share of right answers, between 0 and 1")
    majority = majority_baseline(labels)
    return accuracy > majority + 2 * math.sqrt(majority * (1 - majority) / np.size(labels))


def _checked(glue: GlueTask, logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != glue.num_labels:
        raise DataError(f"logits of {glue.name} have shape {scores.shape}, not (n, {glue.num_labels})")
    if truth.shape != scores.shape[:1] or not truth.size:
        raise DataError(f"{scores.shape[0]} rows of logits with labels of shape {truth.shape}; need n >= 1 of each")
    wrong = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if wrong.size:
        raise DataError(
            f"the logits of {wrong.size} of {truth.size} examples are NaN or infinite, first row {wrong[0]}\n"
            "hint: the model's weights or activations overflow; score it in float32"
        )
    return scores, truth


def _accuracy(truth: NDArray[np.float64], predictions: NDArray[np.float64]) -> float:
    return float((truth == predictions).mean())


def _f1(truth: NDArray[np.float64], predictions: NDArray[np.float64]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predictions, zero_division=0.0))


def _matthews(truth: NDArray[np.float64], predictions: NDArray[np.float64]) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(truth, predictions))


def _pearson(truth: NDArray[np.float64], predictions: NDArray[np.float64]) -> float:
    from scipy.stats import NearConstantInputWarning, pearsonr

    if _constant(truth, predictions):
        return 0.0
    with warnings.catch_warnings():  # an untrained regression answers nearly the same everywhere
        warnings.simplefilter("ignore", NearConstantInputWarning)
        return float(pearsonr(truth, predictions).statistic)


def _spearman(truth: NDArray[np.float64], predictions: NDArray[np.float64]) -> float:
    from scipy.stats import spearmanr

    return 0.0 if _constant(truth, predictions) else float(spearmanr(truth, predictions).statistic)


def _constant(*columns: NDArray[np.float64]) -> bool:
    return any(np.ptp(column) == 0 for column in columns)


_METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
