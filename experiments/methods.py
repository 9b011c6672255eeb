"""Ways to store a table that experiments compare, with every stored byte, and text to weigh its rows by."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from shared import DATA
from tokenizers import BertWordPieceTokenizer, Tokenizer
from torch import Tensor

import foldflat
from foldflat.embedding.storage import IntegerGroups
from foldflat.errors import BudgetError

HALF = 2
CENTROIDS = 256
# zeros change no distance, and faiss searches parts of fewer columns eight times slower
FAST_WIDTH = 8
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


def quantised(table: Tensor, bits: int, group: int) -> Found:
    """Return groups of numbers in integers of some bits with a float16 scale each, the best of 16 scales."""
    integers = IntegerGroups(bits, group, candidates=16, smallest=0.5)
    codes, scales = integers.encode(table)
    return integers.decode(codes, scales, table.shape[1]), codes.nbytes + scales.nbytes


def product_coded(table: Tensor, budget: int, *, rotated: bool, weights: Tensor | None = None) -> Found:
    """Return faiss' product codes of 8 bits, as many a row as fit; k-means weighs rows where weights are given.

    Parts need not be equally wide, so that any number of bytes a row can be had. Centroids and the rotation are
    float16.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    n, d = table.shape
    fixed = HALF * (CENTROIDS * d + rotated * d * d)
    parts = min(d, (budget - fixed) // n)
    if parts < 1:
        raise BudgetError(f"{budget} bytes are too few")
    rotation = torch.eye(d)
    if rotated:
        matrix = faiss.OPQMatrix(d, max(m for m in range(1, parts + 1) if d % m == 0))
        matrix.train(table.numpy())
        rotation = torch.from_numpy(faiss.vector_to_array(matrix.A).reshape(d, d)).half().float()
    read = [_centroid_of_each(part, weights) for part in (table @ rotation.T).tensor_split(parts, dim=1)]
    return torch.cat(read, 1) @ rotation, n * parts + fixed


def _centroid_of_each(part: Tensor, weights: Tensor | None) -> Tensor:
    """Return (n, width), each row's nearest of 256 centroids in float16."""
    import faiss

    width = part.shape[1]
    rows = torch.nn.functional.pad(part, (0, max(0, FAST_WIDTH - width))).contiguous()
    means = faiss.Kmeans(rows.shape[1], CENTROIDS, seed=1234, min_points_per_centroid=1)
    start = None
    if weights is not None:
        drawn = torch.multinomial(weights, CENTROIDS, generator=torch.Generator().manual_seed(0))
        start = rows[drawn].numpy()
    means.train(rows.numpy(), None if weights is None else weights.float().numpy(), start)
    centroids = torch.from_numpy(means.centroids).half().float()
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(centroids.numpy())
    _, nearest = index.search(rows.numpy(), 1)
    return centroids[torch.from_numpy(nearest[:, 0])][:, :width]


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
    "pq": lambda table, budget, _: product_coded(table, budget, rotated=False),
    "pq-weighted": lambda table, budget, weights: product_coded(table, budget, rotated=False, weights=weights),
    "opq": lambda table, budget, _: product_coded(table, budget, rotated=True),
    "svd": lambda table, budget, _: by_recipe(table, recipe("svd", budget)),
    "svd-int8": lambda table, budget, _: by_recipe(table, recipe("svd", budget, coefficients="int8")),
    "svd-int4": lambda table, budget, _: by_recipe(table, recipe("svd", budget, coefficients="int4")),
    "subspaces": lambda table, budget, _: by_recipe(table, recipe("subspaces", budget)),
    "subspaces-int8": lambda table, budget, _: by_recipe(table, recipe("subspaces", budget, coefficients="int8")),
    "subspaces-int4": lambda table, budget, _: by_recipe(table, recipe("subspaces", budget, coefficients="int4")),
}
