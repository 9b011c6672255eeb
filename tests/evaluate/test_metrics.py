"""Check the metrics against values computed by hand."""

import numpy as np
import pytest

from foldflat.errors import DataError
from foldflat.evaluate import beats_majority, glue_metrics, majority_baseline


def one_hot(predictions: list[int], labels: int = 2) -> np.ndarray:
    """Return logits whose largest entry is the prediction."""
    return np.eye(labels)[predictions]


def test_accuracy_f1_and_matthews_by_hand() -> None:
    """Two true positives, one false positive, one false negative, one true negative."""
    truth, predictions = [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]
    logits = one_hot(predictions)
    assert glue_metrics("sst2", logits, truth) == {"accuracy": pytest.approx(3 / 5)}
    expected = {"f1": pytest.approx(4 / 6), "accuracy": pytest.approx(3 / 5)}
    assert glue_metrics("mrpc", logits, truth) == expected
    assert glue_metrics("qqp", logits, truth) == expected
    assert glue_metrics("cola", logits, truth) == {"matthews": pytest.approx(1 / 6)}


def test_mnli_counts_three_labels() -> None:
    """Two of three right."""
    assert glue_metrics("mnli", one_hot([2, 1, 0], 3), [2, 1, 1]) == {"accuracy": pytest.approx(2 / 3)}


def test_correlations_by_hand() -> None:
    """Pearson of (1, 2, 3) with (1, 2, 4) is 3 / sqrt(2 * 14 / 3); their ranks agree."""
    metrics = glue_metrics("stsb", [[1.0], [2.0], [4.0]], [1, 2, 3])
    assert metrics == {"pearson": pytest.approx(3 / (28 / 3) ** 0.5), "spearman": pytest.approx(1)}


def test_a_model_that_always_answers_the_same_scores_nothing() -> None:
    """Defined as 0 and without a warning, for NaN is no JSON; nearly constant answers do not warn either."""
    assert glue_metrics("stsb", [[2.0], [2.0]], [1, 2]) == {"pearson": 0.0, "spearman": 0.0}
    assert glue_metrics("cola", one_hot([0, 0]), [0, 1]) == {"matthews": 0.0}
    assert glue_metrics("mrpc", one_hot([0, 0]), [0, 1]) == {"f1": 0.0, "accuracy": 0.5}
    assert glue_metrics("mrpc", one_hot([0, 0]), [0, 0]) == {"f1": 0.0, "accuracy": 1.0}
    assert glue_metrics("stsb", [[5.0], [5.0], [5.0 + 2e-15]], [1, 2, 3])["spearman"] == pytest.approx(0.866, abs=1e-3)


def test_the_majority_has_to_be_beaten_by_two_standard_errors() -> None:
    """With 50 of 100 the standard error is 0.05: 0.60 does not beat it, 0.61 does."""
    labels = [0, 1] * 50
    assert majority_baseline(labels) == 0.5
    assert majority_baseline([2, 2, 1]) == pytest.approx(2 / 3)
    assert not beats_majority(0.60, labels)
    assert beats_majority(0.61, labels)
    assert not beats_majority(1.0, [1, 1, 1])


@pytest.mark.parametrize(
    ("task", "logits", "labels", "message"),
    [
        ("sst2", [[1.0, 2.0, 3.0]], [1], r"logits of sst2 have shape \(1, 3\), not \(n, 2\)"),
        ("stsb", [1.0, 2.0], [1, 2], r"logits of stsb have shape \(2,\), not \(n, 1\)"),
        ("sst2", [[1.0, 2.0]], [1, 0], r"1 rows of logits with labels of shape \(2,\)"),
        ("sst2", np.empty((0, 2)), [], "need n >= 1"),
        ("sst2", [[0.0, 1.0], [np.nan, 0.0]], [1, 0], "1 of 2 examples are NaN or infinite, first row 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(task: str, logits: object, labels: object, message: str) -> None:
    """Shapes, emptiness and NaN are named."""
    with pytest.raises(DataError, match=message):
        glue_metrics(task, logits, labels)


def test_no_labels_and_no_share_are_refused() -> None:
    """There is no majority of nothing, and no accuracy above 1."""
    with pytest.raises(DataError, match="no majority class"):
        majority_baseline([])
    with pytest.raises(DataError, match=r"`accuracy` is 78\.6"):
        beats_majority(78.6, [0, 1])
