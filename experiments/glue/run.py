"""Metric before and after fine-tuning, of a fine-tuned classifier whose embedding was compressed by 40 %.

Every cell (task, method, seed) is one JSON in experiments/glue/results; finished cells are not run again.
Methods of one seed share the fine-tuned parent, the data, the steps, the learning rate and the order of batches.

    python experiments/glue/run.py [--model FOLDER] [--tasks sst2 mrpc qnli] [--seeds 0 1 2] [--threads 2]
"""

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import DATA, ROOT, hardware, write_json

import foldflat
from foldflat.evaluate import TrainingSettings, finetune_classifier, score_classifier

RESULTS = Path(__file__).resolve().parent / "results"
PARENTS = ROOT / "build" / "glue-parents"
KEEP_RATIO = 0.6
PARENT_STEPS = {"sst2": 600, "qnli": 1100, "mrpc": 350}
PARENT_RATE, AFTER_RATE = 5e-4, 2e-4
AFTER = {"sst2": {"max_steps": 300}, "qnli": {"epochs": 2.0}, "mrpc": {"epochs": 2.0}}
METHODS: dict[str, dict[str, Any] | None] = {
    "svd": {"method": "svd", "keep_ratio": KEEP_RATIO},
    "auto": {"keep_ratio": KEEP_RATIO},
    "int8": {"method": "int8"},
    "k=5": {"n_subspaces": 5, "free_ranks": False, "keep_ratio": KEEP_RATIO},
    "k=3": {"n_subspaces": 3, "free_ranks": False, "keep_ratio": KEEP_RATIO},
    "none": None,
    "k=2": {"n_subspaces": 2, "free_ranks": False, "keep_ratio": KEEP_RATIO},
    "k=4": {"n_subspaces": 4, "free_ranks": False, "keep_ratio": KEEP_RATIO},
    "int4": {"method": "int4"},
}


def parent(model: str, task: str, seed: int, data: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return the fine-tuned classifier of a task and seed, its tokenizer and its scores."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = PARENTS / f"{task}-{seed}"
    if not folder.is_dir():
        settings = TrainingSettings(seed=seed, max_steps=PARENT_STEPS[task], learning_rate=PARENT_RATE, bf16=True)
        result = finetune_classifier(model, task, data, settings=settings, progress=False)
        beside = PARENTS / f".{task}-{seed}"
        result.model.save_pretrained(beside)
        result.tokenizer.save_pretrained(beside)
        beside.rename(folder)
        print(f"{task} parent {seed}: {result.metrics['headline']} {result.run.seconds:.0f} s", flush=True)
    classifier = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return classifier, tokenizer, score_classifier(classifier, task, data, tokenizer=tokenizer)


def cell(classifier: Any, tokenizer: Any, task: str, method: str, seed: int, data: str) -> dict[str, Any]:
    """Compress a copy of the parent, score it, fine-tune it, score it again."""
    recipe = METHODS[method]
    table: dict[str, Any] = {}
    model = copy.deepcopy(classifier)
    if recipe is not None:
        result = foldflat.compress(model, foldflat.EmbeddingRecipe(**recipe, seed=seed))
        model, table = result.model, result.report["tables"][0]
        table |= {key: result.report[key] for key in ("model_size_bytes_before", "model_size_bytes_after")}
    before = score_classifier(model, task, data, tokenizer=tokenizer)
    settings = TrainingSettings(seed=seed + 1000, learning_rate=AFTER_RATE, bf16=True, **AFTER[task])
    started = time.perf_counter()
    after = finetune_classifier(model, task, data, settings=settings, progress=False, tokenizer=tokenizer)
    return {
        "before": before,
        "after": after.metrics,
        "steps": after.run.steps,
        "seconds": time.perf_counter() - started,
        "table": table,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(DATA / "models/minibert"))
    parser.add_argument("--data", default=str(DATA / "data/glue"))
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "sst2", "qnli"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    common = {
        "model": Path(settings.model).name,
        "keep_ratio": KEEP_RATIO,
        "parent": {"steps": PARENT_STEPS, "learning_rate": PARENT_RATE},
        "after_learning_rate": AFTER_RATE,
    }
    for seed in settings.seeds:
        for task in settings.tasks:
            pending = [m for m in settings.methods if not (RESULTS / f"{task}-{m}-{seed}.json").is_file()]
            if not pending:
                continue
            classifier, tokenizer, uncompressed = parent(settings.model, task, seed, settings.data)
            for method in pending:
                scores = cell(classifier, tokenizer, task, method, seed, settings.data)
                values = {"task": task, "method": method, "seed": seed, **common, "hardware": hardware()}
                write_json(RESULTS / f"{task}-{method}-{seed}.json", {**values, "uncompressed": uncompressed, **scores})
                pair = [scores[when]["headline"]["value"] for when in ("before", "after")]
                print(f"{task} {method} {seed}: {pair} {scores['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
