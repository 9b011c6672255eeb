"""Error against stored bytes: trellis codes, integers, product codes, SVD, subspaces; every byte counted.

Rows are weighted by how often their tokens occur in the training sentences of GLUE's SST-2 and QNLI (power 1/2) where
the method says so. Errors are of the table, plain and weighted by those counts; sentence vectors, which are means of
rows, are of STS-B's validation sentences, which were not counted: their cosine to the original's, and the share of
their ten nearest neighbours that stay. Product codes are faiss', 8 bits each, as many as fit; their centroids and the
rotation count as float16. A cell is one table, method and size, written as it comes and never run twice.

    python experiments/rates/run.py [--tables potion-base-2M ..] [--methods mixed ..] [--ratios 8 16 ..] [--threads 1]
"""

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from methods import METHODS as COMMON
from methods import Found, by_recipe, count, means, quantised, sentences, token_ids, weights_of
from shared import DATA, hardware, write_json

import foldflat
from foldflat.errors import BudgetError

RESULTS = Path(__file__).resolve().parent / "results"
TABLES = {"potion-base-2M": "embeddings", "minibert": "distilbert.embeddings.word_embeddings.weight"}
RATIOS = (2, 4, 6, 8, 12, 16, 20, 24, 32, 40)
COUNTED = {"sst2": ("sentence",), "qnli": ("question", "sentence")}
HELD_OUT = {"stsb": ("sentence1", "sentence2")}
NEIGHBOURS = 10
PAPER_SUBSPACES = (2, 3, 5)


def nearest(vectors: Tensor) -> Tensor:
    """Return (sentences, 10) the nearest other sentences."""
    return (vectors @ vectors.T).fill_diagonal_(-1).topk(NEIGHBOURS).indices


def paper(table: Tensor, budget: int) -> Found:
    """Return the best of the paper's subspaces: 2, 3 or 5 of equal rank, in bfloat16, a basis for each."""
    settings: dict[str, Any] = {"budget_bytes": budget, "free_ranks": False, "coefficients": "bfloat16"}
    found = []
    for k in PAPER_SUBSPACES:
        # more subspaces may not fit where fewer do
        with contextlib.suppress(BudgetError):
            found.append(by_recipe(table, foldflat.EmbeddingRecipe(n_subspaces=k, **settings)))
    if not found:
        raise BudgetError(f"{budget} bytes are too few")
    return min(found, key=lambda one: float((table - one[0]).double().square().sum()))


METHODS = COMMON | {"paper-bfloat16": lambda table, budget, _: paper(table, budget)}
INTEGERS = {f"int{bits}-g{group}": (bits, group) for bits in (8, 4, 3, 2) for group in (32, 64)}


def cell(table: Tensor, make: Callable[[], Found], counts: Tensor, ids: list[list[int]]) -> dict[str, Any]:
    """Store a table and measure what is left of it."""
    started = time.perf_counter()
    try:
        read, size = make()
    except BudgetError as error:
        return {"failed": str(error).splitlines()[0]}
    seconds = time.perf_counter() - started
    lost, energy = (x.double().square().sum(1) for x in (table - read, table))
    before, after = means(table, ids), means(read, ids)
    kept = [len(set(a) & set(b)) for a, b in zip(nearest(before).tolist(), nearest(after).tolist(), strict=True)]
    return {
        "bytes": size,
        "ratio": table.nbytes / size,
        "energy_lost": float(lost.sum() / energy.sum()),
        "energy_lost_by_counts": float((counts * lost).sum() / (counts * energy).sum()),
        "cosine": float((before * after).sum(1).mean()),
        "neighbours_kept": sum(kept) / (NEIGHBOURS * len(kept)),
        "seconds": seconds,
        "hardware": hardware(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--ratios", nargs="+", type=int, default=RATIOS)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in asked.tables:
        table = load_file(DATA / "models" / name / "model.safetensors")[TABLES[name]].float()
        counts = count(token_ids(name, sentences(COUNTED, "train")), len(table))
        weights = weights_of(counts)
        ids = [own for own in token_ids(name, sentences(HELD_OUT, "validation")) if own]
        cells: list[tuple[str, Callable[[], Found]]] = [
            (f"{method}-{ratio}", partial(METHODS[method], table, table.nbytes // ratio, weights))
            for ratio, method in itertools.product(asked.ratios, asked.methods)
        ]
        cells += [(kind, partial(quantised, table, *own)) for kind, own in INTEGERS.items()]
        for kind, make in cells:
            file = RESULTS / f"{name}-{kind}.json"
            if not file.exists():
                values = {"table": name, "method": kind} | cell(table, make, counts, ids)
                write_json(file, values)
                print(name, kind, {k: v for k, v in values.items() if isinstance(v, float | str)}, flush=True)


if __name__ == "__main__":
    main()
