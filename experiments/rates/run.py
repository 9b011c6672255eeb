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
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from shared import DATA, hardware, write_json

import foldflat
from foldflat.embedding.storage import IntegerGroups
from foldflat.errors import BudgetError

RESULTS = Path(__file__).resolve().parent / "results"
TABLES = {"potion-base-2M": "embeddings", "minibert": "distilbert.embeddings.word_embeddings.weight"}
RATIOS = (2, 4, 6, 8, 12, 16, 20, 24, 32, 40)
COUNTED = {"sst2": ("sentence",), "qnli": ("question", "sentence")}
HELD_OUT = {"stsb": ("sentence1", "sentence2")}
NEIGHBOURS = 10
HALF = 2
PAPER_SUBSPACES = (2, 3, 5)
Found = tuple[Tensor, int]


def sentences(columns: dict[str, tuple[str, ...]], split: str) -> list[str]:
    """Return the sentences of some columns of GLUE tasks."""
    import pyarrow.parquet

    files = {task: DATA / "data" / "glue" / task / f"{split}.parquet" for task in columns}
    read = {task: pyarrow.parquet.read_table(file, columns=list(columns[task])) for task, file in files.items()}
    return [text for table in read.values() for column in table.columns for text in column.to_pylist()]


def token_ids(name: str, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text, without special tokens."""
    folder = DATA / "models" / name
    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
    else:
        tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def means(table: Tensor, ids: list[list[int]]) -> Tensor:
    """Return (sentences, d) unit vectors: means of rows."""
    offsets = torch.tensor([0, *(len(own) for own in ids[:-1])]).cumsum(0)
    flat = torch.tensor(list(itertools.chain.from_iterable(ids)))
    vectors = torch.nn.functional.embedding_bag(flat, table, offsets, mode="mean")
    return torch.nn.functional.normalize(vectors, dim=1)


def nearest(vectors: Tensor) -> Tensor:
    """Return (sentences, 10) the nearest other sentences."""
    return (vectors @ vectors.T).fill_diagonal_(-1).topk(NEIGHBOURS).indices


def by_recipe(table: Tensor, recipe: foldflat.EmbeddingRecipe) -> Found:
    """Return what foldflat makes of a table, and its bytes."""
    module = foldflat.compress(torch.nn.Embedding.from_pretrained(table), recipe).model
    return module.to_dense(), module.size_bytes


def quantised(table: Tensor, bits: int, group: int) -> Found:
    """Return groups of numbers in integers of some bits with a float16 scale each, the best of 16 scales."""
    integers = IntegerGroups(bits, group, candidates=16, smallest=0.5)
    codes, scales = integers.encode(table)
    return integers.decode(codes, scales, table.shape[1]), codes.nbytes + scales.nbytes


def product_coded(table: Tensor, budget: int, *, rotated: bool, weights: Tensor | None = None) -> Found:
    """Return faiss' product codes with as many bytes a row as fit; centroids see rows as often as they weigh."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    n, d = table.shape
    fixed = HALF * (256 * d + rotated * d * d)
    fitting = [m for m in range(1, d + 1) if d % m == 0 and n * m + fixed <= budget]
    if not fitting:
        raise BudgetError(f"{budget} bytes are too few")
    rows = table.numpy()
    seen = rows if weights is None else rows[torch.multinomial(weights, n, replacement=True).numpy()]
    rotation = faiss.OPQMatrix(d, fitting[-1]) if rotated else None
    if rotation is not None:
        rotation.train(seen)
        rows, seen = rotation.apply(rows), rotation.apply(seen)
    quantiser = faiss.ProductQuantizer(d, fitting[-1], 8)
    quantiser.train(seen)
    read = quantiser.decode(quantiser.compute_codes(rows))
    if rotation is not None:
        read = rotation.reverse_transform(read)
    return torch.from_numpy(read), n * fitting[-1] + fixed


def recipe(
    method: str, budget: int, weights: Tensor | None = None, coefficients: str = "bfloat16"
) -> foldflat.EmbeddingRecipe:
    """Return the recipe of a method of ours for a budget."""
    settings: dict[str, Any] = {"method": method, "coefficients": coefficients}
    if method == "mixed":
        settings = {"coefficients": "mixed"}
    return foldflat.EmbeddingRecipe(budget_bytes=budget, row_weights=weights, **settings)


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


METHODS: dict[str, Callable[[Tensor, int, Tensor], Found]] = {
    "mixed": lambda table, budget, _: by_recipe(table, recipe("mixed", budget)),
    "mixed-weighted": lambda table, budget, weights: by_recipe(table, recipe("mixed", budget, weights)),
    "pq": lambda table, budget, _: product_coded(table, budget, rotated=False),
    "pq-weighted": lambda table, budget, weights: product_coded(table, budget, rotated=False, weights=weights),
    "opq": lambda table, budget, _: product_coded(table, budget, rotated=True),
    "svd": lambda table, budget, _: by_recipe(table, recipe("svd", budget)),
    "svd-int8": lambda table, budget, _: by_recipe(table, recipe("svd", budget, coefficients="int8")),
    "svd-int4": lambda table, budget, _: by_recipe(table, recipe("svd", budget, coefficients="int4")),
    "subspaces": lambda table, budget, _: by_recipe(table, recipe("subspaces", budget)),
    "subspaces-int8": lambda table, budget, _: by_recipe(table, recipe("subspaces", budget, coefficients="int8")),
    "subspaces-int4": lambda table, budget, _: by_recipe(table, recipe("subspaces", budget, coefficients="int4")),
    "paper-bfloat16": lambda table, budget, _: paper(table, budget),
}
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
        counted = itertools.chain.from_iterable(token_ids(name, sentences(COUNTED, "train")))
        counts = torch.bincount(torch.tensor(list(counted)), minlength=len(table)).double()
        # as the library does with counts from a file
        weights = counts.clamp_min(1).sqrt()
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
