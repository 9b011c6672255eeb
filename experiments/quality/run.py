"""Task quality of a table stored in fewer bytes, without any fine-tuning; every stored byte of the table counted.

stsb is the Spearman correlation of the cosine between mean-pooled rows of potion-base-2M with the gold score; sst2,
mrpc and qnli are scores of minibert, fine-tuned on the task as experiments/glue does it, with its word table stored.
All scores are of the validation split. Methods called weighted were given row weights from the task's own training
text: square roots of token counts. A cell is one task, seed, method and size, written as it comes and never run twice.

    python experiments/quality/run.py [--subjects stsb-0 sst2-0 ..] [--methods mixed ..] [--ratios 4 8 ..] [--threads 1]
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from glue.parents import parent
from methods import METHODS, Found, by_recipe, count, means, measured, quantised, sentences, token_ids, weights_of
from shared import DATA, write_json

import foldflat
from foldflat.evaluate import count_tokens, load_split, majority_baseline
from foldflat.evaluate.glue import glue_task
from foldflat.evaluate.metrics import glue_metrics
from foldflat.evaluate.prediction import predict_logits

RESULTS = Path(__file__).resolve().parent / "results"
GLUE = str(DATA / "data" / "glue")
RATIOS = (4, 8, 16, 32)
AT_EVERY_SIZE = ("svd", "svd-int8", "mixed-weighted", "pq-weighted", "pq", "mixed")
ONE_SIZE: dict[str, Callable[[Tensor], Found]] = {
    "int8": lambda table: by_recipe(table, foldflat.EmbeddingRecipe(method="int8")),
    "int4-g32": lambda table: quantised(table, 4, 32),
    "int3-g32": lambda table: quantised(table, 3, 32),
    "int2-g32": lambda table: quantised(table, 2, 32),
}
SUBJECTS = ("stsb-0", *(f"{task}-{seed}" for seed in range(3) for task in ("sst2", "qnli", "mrpc")))


@dataclass(frozen=True)
class Subject:
    """Hold a table, how often its rows occur in the training text, and what scores a table in its place."""

    model: str
    table: Tensor
    counts: Tensor
    score: Callable[[Tensor], dict[str, Any]]


def similarity(task: str) -> Subject:
    """Return potion-base-2M, scored by how its cosines rank pairs of sentences."""
    import pyarrow.parquet

    model, columns = "potion-base-2M", glue_task(task).text_columns
    table = load_file(DATA / "models" / model / "model.safetensors")["embeddings"].float()
    counts = count(token_ids(model, sentences({task: columns}, "train")), len(table))
    sides = [token_ids(model, sentences({task: (column,)}, "validation")) for column in columns]
    gold = pyarrow.parquet.read_table(Path(GLUE) / task / "validation.parquet")["label"].to_numpy()

    def score(read: Tensor) -> dict[str, Any]:
        cosines = (means(read, sides[0]) * means(read, sides[1])).sum(1, keepdim=True)
        return {"metric": "spearman", "score": glue_metrics(task, cosines.numpy(), gold)["spearman"]}

    return Subject(model, table, counts, score)


def classifier(task: str, seed: int) -> Subject:
    """Return minibert fine-tuned on a task, scored by it and by how many predictions stay what they were."""
    model, tokenizer, _ = parent(str(DATA / "models" / "minibert"), task, seed, GLUE)
    layer = model.get_input_embeddings()
    table = layer.weight.detach().clone()
    texts = sentences({task: glue_task(task).text_columns}, "train")
    counts = count_tokens(texts, tokenizer).for_rows(len(table), "minibert").double()
    dataset = load_split(GLUE, task, tokenizer=tokenizer)
    labels, headline = dataset["labels"][:], glue_task(task).headline

    def logits(read: Tensor) -> Any:
        with torch.no_grad():
            layer.weight.copy_(read)
        return predict_logits(model, dataset, tokenizer=tokenizer)

    first = logits(table).argmax(1)

    def score(read: Tensor) -> dict[str, Any]:
        found = logits(read)
        return {
            "metric": headline,
            "score": glue_metrics(task, found, labels)[headline],
            "metrics": glue_metrics(task, found, labels),
            "majority_baseline": majority_baseline(labels),
            "predictions_kept": float((found.argmax(1) == first).mean()),
        }

    return Subject("minibert", table, counts, score)


def cells(subject: Subject, methods: list[str], ratios: list[int]) -> dict[str, Callable[[], Found]]:
    """Return what stores the table, by name of the cell; the quick ones first."""
    table, weights = subject.table, weights_of(subject.counts)
    found: dict[str, Callable[[], Found]] = {"none": lambda: (table, table.nbytes)}
    found |= {name: partial(make, table) for name, make in ONE_SIZE.items() if name in methods}
    for ratio, method in itertools.product(ratios, (name for name in AT_EVERY_SIZE if name in methods)):
        # codes are whole bytes: as many as come nearest, even where that is a little more than the others have
        more = len(table) // 2 if method.startswith("pq") else 0
        found[f"{method}-{ratio}"] = partial(METHODS[method], table, table.nbytes // ratio + more, weights)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--methods", nargs="+", default=[*ONE_SIZE, *AT_EVERY_SIZE])
    parser.add_argument("--ratios", nargs="+", type=int, default=list(RATIOS))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in asked.subjects:
        task, seed = name.split("-")
        subject = similarity(task) if task == "stsb" else classifier(task, int(seed))
        for kind, make in cells(subject, asked.methods, asked.ratios).items():
            file = RESULTS / f"{name}-{kind}.json"
            if not file.exists():
                values = {"task": task, "seed": int(seed), "method": kind, "model": subject.model}
                values |= measured(subject.table, subject.counts, make, subject.score)
                write_json(file, values)
                print(name, kind, {k: v for k, v in values.items() if isinstance(v, float)}, flush=True)


if __name__ == "__main__":
    main()
