"""Ways to store a table that experiments compare, with every stored byte, and text to weigh its rows by."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from shared import DATA, hardware
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torch import Tensor

import foldflat
from foldflat.embedding.error import weighted_shares
from foldflat.embedding.rivals import product_coded, product_coded_bytes
from foldflat.embedding.storage import IntegerGroups
from foldflat.errors import BudgetError

HALF = 2
CENTROIDS = 256
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


def count(ids: list[list[int]], n: int) -> Tensor:
    """Return (n,) float64, how often each id occurs."""
    return torch.bincount(torch.tensor(list(itertools.chain.from_iterable(ids))), minlength=n).double()


def weights_of(counts: Tensor) -> Tensor:
    """Return the row weights that the library makes of counts from a file."""
    return counts.clamp_min(1).sqrt()


def means(table: Tensor, ids: list[list[int]]) -> Tensor:
    """Return (sentences, d) unit vectors: means of rows."""
    offsets = torch.tensor([0, *(len(own) for own in ids[:-1])]).cumsum(0)
    flat = torch.tensor(list(itertools.chain.from_iterable(ids)))
    vectors = torch.nn.functional.embedding_bag(flat, table, offsets, mode="mean")
    return torch.nn.functional.normalize(vectors, dim=1)


def by_recipe(table: Tensor, recipe: foldflat.EmbeddingRecipe) -> Found:
    """Return what foldflat makes of a table, and its bytes."""
    module = foldflat.compress(torch.nn.Embedding.from_pretrained(table), recipe).model
    return module.to_dense(), module.size_bytes


def measured(
    table: Tensor, counts: Tensor, make: Callable[[], Found], scores: Callable[[Tensor], dict[str, Any]]
) -> dict[str, Any]:
    """Store a table, and say how much of it and of its scores is left; a budget that is too small is a result too."""
    started = time.perf_counter()
    try:
        read, size = make()
    except BudgetError as error:
        return {"failed": str(error).splitlines()[0]}
    seconds = time.perf_counter() - started
    lost, energy = (
        torch.cat([x.double().square().sum(1) for x in rows])
        for rows in ((table - read).split(8192), table.split(8192))
    )
    shares = weighted_shares(lost, energy, counts)
    return {
        "bytes": size,
        "ratio": table.nbytes / size,
        **scores(read),
        "energy_lost": shares.energy_lost,
        "energy_lost_by_counts": shares.weighted,
        "seconds": seconds,
        "hardware": hardware(),
    }


def quantised(table: Tensor, bits: int, group: int) -> Found:
    """Return groups of numbers in integers of some bits with a float16 scale each, the best of 16 scales."""
    integers = IntegerGroups(bits, group, candidates=16, smallest=0.5)
    codes, scales = integers.encode(table)
    return integers.decode(codes, scales, table.shape[1]), codes.nbytes + scales.nbytes


def product_codes(table: Tensor, budget: int, *, rotated: bool, weights: Tensor | None = None) -> Found:
    """Return faiss' product codes of 8 bits, as many a row as fit; with the rotation of OPQ in float16."""
    n, d = table.shape
    fixed = product_coded_bytes(0, d, 0) + rotated * HALF * d * d
    codes = min(d, (budget - fixed) // n)
    if codes < 1:
        raise BudgetError(f"{budget} bytes are too few")
    rotation = _rotation(table, codes) if rotated else torch.eye(d)
    return product_coded(table @ rotation.T, codes, weights) @ rotation, n * codes + fixed


def _rotation(table: Tensor, codes: int) -> Tensor:
    import faiss

    d = table.shape[1]
    matrix = faiss.OPQMatrix(d, max(m for m in range(1, codes + 1) if d % m == 0))
    matrix.train(table.numpy())
    return torch.from_numpy(faiss.vector_to_array(matrix.A).reshape(d, d)).half().float()


def residual_codes(table: Tensor, budget: int) -> Found:
    """Return faiss' residual quantiser, stages of 8 bits with centroids in float16, as many as fit."""
    import faiss

    n, d = table.shape
    stage_bytes = n + HALF * CENTROIDS * d
    stages = min(d, budget // stage_bytes)
    if stages < 1:
        raise BudgetError(f"{budget} bytes are too few")
    faiss.omp_set_num_threads(torch.get_num_threads())
    quantiser = faiss.ResidualQuantizer(d, stages, 8)
    quantiser.train(table.numpy())
    return torch.from_numpy(quantiser.decode(quantiser.compute_codes(table.numpy()))), stages * stage_bytes


def recipe(
    method: str, budget: int, weights: Tensor | None = None, coefficients: str = "bfloat16"
) -> foldflat.EmbeddingRecipe:
    """Return the recipe of a method of ours for a budget."""
    settings: dict[str, Any] = {"method": method, "coefficients": coefficients}
    if method == "mixed":
        settings = {"coefficients": "mixed"}
    return foldflat.EmbeddingRecipe(budget_bytes=budget, row_weights=weights, **settings)


METHODS: dict[str, Callable[[Tensor, int, Tensor], Found]] = {
    "mixed": lambda table, budget, _: by_recipe(table, recipe("mixed", budget)),
    "mixed-weighted": lambda table, budget, weights: by_recipe(table, recipe("mixed", budget, weights)),
    "pq": lambda table, budget, _: product_codes(table, budget, rotated=False),
    "pq-weighted": lambda table, budget, weights: product_codes(table, budget, rotated=False, weights=weights),
    "opq": lambda table, budget, _: product_codes(table, budget, rotated=True),
    "rq": lambda table, budget, _: residual_codes(table, budget),
    "svd": lambda table, budget, _: by_recipe(table, recipe("svd", budget)),
    "svd-int8": lambda table, budget, _: by_recipe(table, recipe("svd", budget, coefficients="int8")),
    "svd-int4": lambda table, budget, _: by_recipe(table, recipe("svd", budget, coefficients="int4")),
    "subspaces": lambda table, budget, _: by_recipe(table, recipe("subspaces", budget)),
    "subspaces-int8": lambda table, budget, _: by_recipe(table, recipe("subspaces", budget, coefficients="int8")),
    "subspaces-int4": lambda table, budget, _: by_recipe(table, recipe("subspaces", budget, coefficients="int4")),
}
