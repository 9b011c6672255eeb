"""Classifiers that other experiments compress: minibert, fine-tuned on a task."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import ROOT

from foldflat.evaluate import TrainingSettings, finetune_classifier, score_classifier

PARENTS = ROOT / "build" / "glue-parents"
STEPS = {"sst2": 600, "qnli": 1100, "mrpc": 350}
LEARNING_RATE = 5e-4


def parent(model: str, task: str, seed: int, data: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return the fine-tuned classifier of a task and seed, its tokenizer and its scores."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = PARENTS / f"{task}-{seed}"
    if not folder.is_dir():
        settings = TrainingSettings(seed=seed, max_steps=STEPS[task], learning_rate=LEARNING_RATE, bf16=True)
        result = finetune_classifier(model, task, data, settings=settings, progress=False)
        beside = PARENTS / f".{task}-{seed}"
        result.model.save_pretrained(beside)
        result.tokenizer.save_pretrained(beside)
        beside.rename(folder)
        print(f"{task} parent {seed}: {result.metrics['headline']} {result.run.seconds:.0f} s", flush=True)
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return classifier, tokenizer, score_classifier(classifier, task, data, tokenizer=tokenizer)
