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
from methods import METHODS as COMMON
from methods import Found, by_recipe, count, means, measured, quantised, sentences, token_ids, weights_of
from shared import DATA, write_json

import foldflat
from foldflat.errors import BudgetError

RESULTS = Path(__file__).resolve().parent / "results"
RATIOS = (2, 4, 6, 8, 12, 16, 20, 24, 32, 40)
COUNTED = {"sst2": ("sentence",), "qnli": ("question", "sentence")}
HELD_OUT = {"stsb": ("sentence1", "sentence2")}
NEIGHBOURS = 10
PAPER_SUBSPACES = (2, 3, 5)
TOPICS = 32


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


@dataclass(frozen=True)
class Subject:
    """Hold a table, how often its rows occur, and the rows of sentences that were not counted."""

    table: Tensor
    counts: Tensor
    ids: list[list[int]]

    def scores(self, read: Tensor) -> dict[str, Any]:
        """Return what of the sentence vectors is left."""
        before, after = means(self.table, self.ids), means(read, self.ids)
        kept = [len(set(a) & set(b)) for a, b in zip(nearest(before).tolist(), nearest(after).tolist(), strict=True)]
        return {
            "cosine": float((before * after).sum(1).mean()),
            "neighbours_kept": sum(kept) / (NEIGHBOURS * len(kept)),
        }


def of_model(name: str, table: Tensor) -> Subject:
    """Return the word table of a model, with its tokenizer's counts."""
    counts = count(token_ids(name, sentences(COUNTED, "train")), len(table))
    return Subject(table, counts, [own for own in token_ids(name, sentences(HELD_OUT, "validation")) if own])


def stored(name: str, key: str) -> Subject:
    """Return a table of the models at hand."""
    return of_model(name, load_file(DATA / "models" / name / "model.safetensors")[key].float())


def fine_tuned() -> Subject:
    """Return the word table of minibert after SST-2."""
    model, _, _ = parent(str(DATA / "models" / "minibert"), "sst2", 0, str(DATA / "data" / "glue"))
    return of_model("minibert", model.get_input_embeddings().weight.detach())


def synthetic(n: int = 250_002, d: int = 768) -> Subject:
    """Return rows of 32 topics on top of what all share, energies falling as 1 / i, norms and counts as real ones do.

    Sentences are 20 tokens drawn by frequency, which falls as 1 / (rank + 2.7).
    """
    generator = torch.Generator().manual_seed(0)
    shared, *own = (torch.linalg.qr(torch.randn(d, d, generator=generator)).Q for _ in range(TOPICS + 1))
    spectrum = torch.arange(1, d + 1).float().rsqrt()
    table = (torch.randn(n, d, generator=generator) * spectrum) @ shared
    topics = torch.randint(TOPICS, (n,), generator=generator)
    for topic, basis in enumerate(own):
        members = torch.nonzero(topics == topic).squeeze(1)
        table[members] += (torch.randn(len(members), d, generator=generator) * spectrum) @ basis
    frequency = 1 / (torch.arange(n, dtype=torch.float64) + 2.7)
    # rarer tokens have shorter vectors
    table *= (frequency / frequency[0]).pow(0.1).float()[:, None]
    counts = torch.bincount(torch.multinomial(frequency, 20_000_000, True, generator=generator), minlength=n).double()
    drawn = torch.multinomial(frequency, 20 * 1500, True, generator=generator)
    return Subject(table, counts, drawn.view(1500, 20).tolist())


TABLES: dict[str, Callable[[], Subject]] = {
    "potion-base-2M": partial(stored, "potion-base-2M", "embeddings"),
    "minibert": partial(stored, "minibert", "distilbert.embeddings.word_embeddings.weight"),
    "minibert-sst2": fine_tuned,
    "synthetic": synthetic,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--ratios", nargs="+", type=int, default=RATIOS)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    for name in asked.tables:
        subject = TABLES[name]()
        table, weights = subject.table, weights_of(subject.counts)
        cells: list[tuple[str, Callable[[], Found]]] = [
            (kind, partial(quantised, table, *own)) for kind, own in INTEGERS.items()
        ]
        cells += [
            (f"{method}-{ratio}", partial(METHODS[method], table, table.nbytes // ratio, weights))
            for method, ratio in itertools.product(asked.methods, asked.ratios)
        ]
        for kind, make in cells:
            file = RESULTS / f"{name}-{kind}.json"
            if not file.exists():
                values = {"table": name, "method": kind} | measured(table, subject.counts, make, subject.scores)
                write_json(file, values)
                print(name, kind, {k: v for k, v in values.items() if isinstance(v, float | str)}, flush=True)


if __name__ == "__main__":
    main()
