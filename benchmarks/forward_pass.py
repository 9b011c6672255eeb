"""Forward time of a compressed model over the original's, at 32 x 128 and 1 x 16 tokens.

Median of 50 passes each; the original is measured first and last and the mean of the two medians is compared.
Writes benchmarks/results/forward_pass.json.

    python benchmarks/forward_pass.py [--model FOLDER] [--threads 2]
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from shared import DATA, hardware, write_json

import foldflat
from foldflat.model.hub.reading import load_pretrained

RESULT = Path(__file__).resolve().parent / "results" / "forward_pass.json"
SHAPES = ((32, 128), (1, 16))
REPEATS = 50


@torch.no_grad()
def median_seconds(model: nn.Module, ids: torch.Tensor) -> float:
    """Return the median time of a forward pass."""
    times = []
    for _ in range(REPEATS + 5):
        started = time.perf_counter()
        model(input_ids=ids)
        times.append(time.perf_counter() - started)
    return statistics.median(times[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(DATA / "models/minibert"))
    parser.add_argument("--threads", type=int, default=2)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    # the encoder without its output layer, which is what a classifier or sentence encoder runs
    original = load_pretrained(settings.model).base_model
    results = {}
    for keep in (0.6, 0.4):
        compressed = foldflat.compress(original, foldflat.EmbeddingRecipe(keep_ratio=keep))
        table = compressed.report["tables"][0]
        for batch, length in SHAPES:
            ids = torch.randint(5, table["shape"][0], (batch, length), generator=torch.Generator().manual_seed(0))
            first = median_seconds(original, ids)
            ours = median_seconds(compressed.model, ids)
            last = median_seconds(original, ids)
            results[f"keep {keep}, {batch} x {length}"] = {
                "original_seconds": [first, last],
                "compressed_seconds": ours,
                "ratio": ours / ((first + last) / 2),
                "n_subspaces": table["n_subspaces"],
            }
            print(keep, batch, length, results[f"keep {keep}, {batch} x {length}"], flush=True)
    write_json(RESULT, {"model": Path(settings.model).name, "passes": results, "hardware": hardware()})


if __name__ == "__main__":
    main()
