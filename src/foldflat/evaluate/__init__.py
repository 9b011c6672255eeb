"""Fine-tune, retrain and score classifiers, count tokens; needs `pip install "foldflat[hf,eval]"`."""

from foldflat.evaluate.batchnorm import recalibrate_batchnorm
from foldflat.evaluate.counting import count_tokens, tokenizer_in
from foldflat.evaluate.data import load_split, read_task
from foldflat.evaluate.finetuning import FinetuneResult, finetune_classifier
from foldflat.evaluate.fingerprints import data_fingerprint, model_fingerprint
from foldflat.evaluate.glue import GLUE_TASKS, GlueTask, glue_task, resolve_split
from foldflat.evaluate.images import ImageDataset, calibration_batches, hold_out, load_images, score_images
from foldflat.evaluate.learning_rates import LearningRateChoice, choose_learning_rate
from foldflat.evaluate.loading import load_classifier, load_tokenizer
from foldflat.evaluate.metrics import beats_majority, glue_metrics, majority_baseline
from foldflat.evaluate.prediction import predict_logits
from foldflat.evaluate.preprocessing import Preprocessing, preprocessing_of
from foldflat.evaluate.retraining import RetrainingSettings, retrain
from foldflat.evaluate.scoring import score_classifier
from foldflat.evaluate.settings import TrainingRun, TrainingSettings
from foldflat.evaluate.texts import Texts
from foldflat.evaluate.training import train_classifier

__all__ = [
    "GLUE_TASKS",
    "FinetuneResult",
    "GlueTask",
    "ImageDataset",
    "LearningRateChoice",
    "Preprocessing",
    "RetrainingSettings",
    "Texts",
    "TrainingRun",
    "TrainingSettings",
    "beats_majority",
    "calibration_batches",
    "choose_learning_rate",
    "count_tokens",
    "data_fingerprint",
    "finetune_classifier",
    "glue_metrics",
    "glue_task",
    "hold_out",
    "load_classifier",
    "load_images",
    "load_split",
    "load_tokenizer",
    "majority_baseline",
    "model_fingerprint",
    "predict_logits",
    "preprocessing_of",
    "read_task",
    "recalibrate_batchnorm",
    "resolve_split",
    "retrain",
    "score_classifier",
    "score_images",
    "tokenizer_in",
    "train_classifier",
]
