"""The nine GLUE tasks: columns, labels, splits and official metrics.

Source: Wang et al. 2019, GLUE; column and label names are those of the hub's `nyu-mll/glue`.
"""

import dataclasses

from foldflat.errors import RecipeError

__all__ = ["GLUE_TASKS", "SIMILARITY_RANGE", "GlueTask", "glue_task", "resolve_split"]

SIMILARITY_RANGE = (0.0, 5.0)
"""The lowest and the highest similarity that an annotator of STS-B could give."""


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """Describe one task: what to read, how many labels to predict, what to report.

    `labels` are the class names in the order of their numbers; empty for a regression. `metrics` are the
    official ones, `headline` is the one of them that a table with a single column shows.
    """

    name: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    headline: str = "accuracy"

    @property
    def num_labels(self) -> int:
        """Return the width of the classifier's output: the number of classes, 1 for a regression."""
        return len(self.labels) or 1

    @property
    def problem_type(self) -> str:
        """Return the name under which transformers knows the loss."""
        return "single_label_classification" if self.labels else "regression"


_SENTENCES = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_F1_FIRST = ("f1", "accuracy")

GLUE_TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews",), "matthews"),
        GlueTask("sst2", ("sentence",), ("negative", "positive")),
        GlueTask("mrpc", _SENTENCES, ("not_equivalent", "equivalent"), _F1_FIRST, "f1"),
        GlueTask("stsb", _SENTENCES, (), ("pearson", "spearman"), "spearman"),
        GlueTask("rte", _SENTENCES, _ENTAILMENT),
        GlueTask("wnli", _SENTENCES, _ENTAILMENT[::-1]),
        GlueTask("qnli", ("question", "sentence"), _ENTAILMENT),
        GlueTask("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
        GlueTask("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), _F1_FIRST, "f1"),
    )
}
"""The tasks by name."""


def glue_task(name: str) -> GlueTask:
    """Return the task called `name`; raises RecipeError, with the names there are, for any other."""
    try:
        return GLUE_TASKS[name]
    except KeyError:
        raise RecipeError(f"unknown task {name!r}\nhint: one of {', '.join(GLUE_TASKS)}") from None


def resolve_split(task: str, split: str = "validation") -> str:
    """Return the name that the data set gives to `split`: MNLI's validation is `validation_matched`.

    Raises RecipeError for an unknown task.
    """
    if glue_task(task).name == "mnli" and split in ("validation", "test"):
        return f"{split}_matched"
    return split
