"""Fine-tune and score classifiers on GLUE; needs `pip install "foldflat[hf,eval]"`."""

from foldflat.evaluate.data import load_split
from foldflat.evaluate.finetuning import FinetuneResult, finetune_classifier
from foldflat.evaluate.glue import GLUE_TASKS, GlueTask, glue_task, resolve_split
from foldflat.evaluate.metrics import beats_majority, glue_metrics, majority_baseline
from foldflat.evaluate.prediction import predict_logits
from foldflat.evaluate.scoring import score_classifier
from foldflat.evaluate.training import TrainingRun, TrainingSettings, train_classifier

__all__ = [
    "GLUE_TASKS",
    "FinetuneResult",
    "GlueTask",
    "TrainingRun",
    "TrainingSettings",
    "beats_majority",
    "finetune_classifier",
    "glue_metrics",
    "glue_task",
    "load_split",
    "majority_baseline",
    "predict_logits",
    "resolve_split",
    "score_classifier",
    "train_classifier",
]
