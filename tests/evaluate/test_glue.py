"""Check the table of tasks against the hub's schema."""

from pathlib import Path

import pytest

from foldflat.errors import RecipeError
from foldflat.evaluate import GLUE_TASKS, glue_task, resolve_split


def test_the_nine_tasks_have_their_official_headline() -> None:
    """One headline each, among the task's metrics."""
    expected = {
        "cola": "matthews",
        "sst2": "accuracy",
        "mrpc": "f1",
        "stsb": "spearman",
        "rte": "accuracy",
        "wnli": "accuracy",
        "qnli": "accuracy",
        "mnli": "accuracy",
        "qqp": "f1",
    }
    assert {name: task.headline for name, task in GLUE_TASKS.items()} == expected
    assert all(task.headline in task.metrics for task in GLUE_TASKS.values())


def test_only_stsb_is_a_regression_and_only_mnli_has_three_labels() -> None:
    """The width of the head and the loss follow from the labels."""
    regressions = [name for name, task in GLUE_TASKS.items() if task.problem_type == "regression"]
    widths = {name: task.num_labels for name, task in GLUE_TASKS.items()}
    assert regressions == ["stsb"]
    assert widths == dict.fromkeys(GLUE_TASKS, 2) | {"stsb": 1, "mnli": 3}


def test_validation_of_mnli_is_the_matched_one() -> None:
    """Every other task keeps the name of the split, as does a split of MNLI named in full."""
    assert resolve_split("mnli") == "validation_matched"
    assert resolve_split("mnli", "validation_mismatched") == "validation_mismatched"
    assert resolve_split("mnli", "train") == "train"
    assert resolve_split("sst2") == "validation"


def test_an_unknown_task_is_told_the_nine() -> None:
    """The hint lists what there is."""
    with pytest.raises(RecipeError, match=r"unknown task 'sst'.*\nhint: one of cola, sst2, mrpc, stsb, rte"):
        glue_task("sst")


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_columns_and_labels_are_those_of_the_real_data(task: str, data_root: Path) -> None:
    """Read from the schema of the real files; generated twins are in test_data.py."""
    from datasets import load_dataset

    glue = glue_task(task)
    features = load_dataset(str(data_root / "data" / "glue"), task)[resolve_split(task)].features
    assert set(features) == {*glue.text_columns, "label", "idx"}
    assert tuple(getattr(features["label"], "names", ())) == glue.labels
