"""Time of `foldflat sweep` over that of the same runs written out by hand, each a process of its own, in turns.

By hand: fine-tune a parent, compress a copy, fine-tune and score it, with the library's functions; no folder of
results, no fingerprints, no locks, no details. Writes benchmarks/results/sweep_overhead.json.

    python benchmarks/sweep_overhead.py [--task mrpc] [--steps 100] [--repeats 3] [--threads 1]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from shared import DATA, hardware, write_json

RESULT = Path(__file__).resolve().parent / "results" / "sweep_overhead.json"
GRID = """\
models: [{model}]
data: {data}
tasks: [{task}]
methods: [none, svd, paper-3, int8]
rates: [0.4]
seeds: [0]
max_steps: [{steps}]
parent: {{max_steps: {steps}, learning_rate: 5.0e-4}}
training: {{learning_rate: 2.0e-4, bf16: true}}
"""
BY_HAND = """
import copy, sys
import torch
from foldflat import EmbeddingRecipe, compress
from foldflat.evaluate import TrainingSettings, finetune_classifier

model, data, task, steps, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
parent = TrainingSettings(max_steps=int(steps), learning_rate=5e-4, bf16=True)
made = finetune_classifier(model, task, data, settings=parent, progress=False)
recipes = [
    None,
    EmbeddingRecipe(method="svd", keep_ratio=0.6),
    EmbeddingRecipe(n_subspaces=3, free_ranks=False, keep_ratio=0.6),
    EmbeddingRecipe(method="int8"),
]
after = TrainingSettings(max_steps=int(steps), learning_rate=2e-4, bf16=True)
for recipe in recipes:
    own = copy.deepcopy(made.model) if recipe is None else compress(made.model, recipe).model
    tuned = finetune_classifier(own, task, data, settings=after, tokenizer=made.tokenizer, progress=False)
    print(tuned.metrics["headline"]["value"])
"""


def timed(command: list[str]) -> dict[str, float]:
    """Return the wall-clock and processor seconds of a process."""
    start, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": time.perf_counter() - start, "processor": processor}


def ratios(pairs: list[dict[str, dict[str, float]]], kind: str) -> dict[str, Any]:
    """Return the ratios of the pairs, and that of the sums."""
    sums = {name: sum(pair[name][kind] for pair in pairs) for name in ("sweep", "by_hand")}
    return {
        "each": [pair["sweep"][kind] / pair["by_hand"][kind] for pair in pairs],
        "all": sums["sweep"] / sums["by_hand"],
    }


def main() -> None:
    """Run both in turns and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(DATA / "models/minibert"))
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    data = str(DATA / "data/glue")
    pairs = []
    for _ in range(settings.repeats):
        with tempfile.TemporaryDirectory() as folder:
            grid = Path(folder) / "grid.yaml"
            values = {"model": settings.model, "data": data, "task": settings.task, "steps": settings.steps}
            grid.write_text(GRID.format(**values))
            results = ["-o", str(Path(folder) / "results"), "--threads", str(settings.threads)]
            sweep = timed([sys.executable, "-m", "foldflat", "sweep", str(grid), *results])
        arguments = [settings.model, data, settings.task, str(settings.steps), str(settings.threads)]
        pairs.append({"sweep": sweep, "by_hand": timed([sys.executable, "-c", BY_HAND, *arguments])})
        print(pairs[-1], flush=True)
    found = {kind: ratios(pairs, kind) for kind in ("wall", "processor")}
    about = {"model": Path(settings.model).name, "task": settings.task, "steps": settings.steps, "runs": 5}
    write_json(RESULT, {**about, "threads": settings.threads, "pairs": pairs, "ratio": found, "hardware": hardware()})
    print(found)


if __name__ == "__main__":
    main()
