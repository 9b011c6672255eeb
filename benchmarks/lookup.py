"""Time of look-ups in, and products with, a compressed 250,002 x 768 table, against int8 rows and the dense product.

The layers have random contents, as only the layout matters: trellis-coded rows in 8 bases of 15 weight classes each,
whose bits are those that the rates below buy for rows near a plane of 320 directions (variances as 1 / i, and noise);
a plain one of 2 bits for each of 300 directions; subspaces at keep ratio .4; int8 and int4 rows. Ids follow Zipf's law,
as tokens of text do, or are all different; "rows kept" is with a cache that other draws have filled. A look-up is
compared with torch's int8 gather and product with the scales,
16 hidden vectors' products with the table with `hidden @ table.T` in float32. Both sides run in turn; ratios are of
medians. `wanted` is the largest ratio that is asked for: 2 for 4,096 tokens, mean rank / (.8 d) for the products.
Writes benchmarks/results/lookup.json, or lookup_processor.json with `--clock processor`: the seconds that the process
computes, which with one thread is what others on the machine disturb least.

    python benchmarks/lookup.py [--threads 2] [--repeats 15] [--clock wall] [--layouts int8 ..]
"""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from clustering_step import CLOCKS, Clock, command_line, write_result
from torch import Tensor

from foldflat.embedding.base import CompressedEmbedding
from foldflat.embedding.baselines import QuantizedEmbedding
from foldflat.embedding.bits import RowClass, pairs_at, spent
from foldflat.embedding.mixed import ClassLayout, MixedEmbedding
from foldflat.embedding.module import SubspaceEmbedding
from foldflat.embedding.trellis import window_values

N, D, HIDDEN = 250_002, 768, 16
BATCHES = (16, 512, 4096)
BASES, WEIGHT_CLASSES = 8, 15
DIRECTIONS, NOISE = 320, 4e-4
BISECTIONS = 40
SHARE = 0.8
KEPT = 32_768

Factory = Callable[[], CompressedEmbedding]


def generator() -> torch.Generator:
    """Return the source of all contents, which are the same in every run."""
    return torch.Generator().manual_seed(0)


def weight_classes() -> tuple[Tensor, list[int]]:
    """Return (n,) the weight class of each row, frequent rows first, and the rows in each: equal steps of log rank."""
    ranks = torch.arange(1, N + 1).double().log()
    classes = (ranks / ranks[-1] * WEIGHT_CLASSES).long().clamp_max(WEIGHT_CLASSES - 1)
    return classes, torch.bincount(classes).tolist()


def pairs_for(smaller: float) -> list[tuple[int, ...]]:
    """Return the bits of each weight class that make rows `smaller` times smaller than float32."""
    signal = 1 / torch.arange(1, D + 1).double()
    signal[DIRECTIONS:] = 0
    variances = (signal + NOISE).numpy()
    classes, sizes = weight_classes()
    # the weight of a token is the square root of its count, which falls as its rank rises
    rank = torch.arange(1, N + 1).double().rsqrt()
    means = [float(rank[classes == i].mean()) for i in range(WEIGHT_CLASSES)]
    rows = [RowClass(size, mean, variances, 0.0) for size, mean in zip(sizes, means, strict=True)]
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = [pairs_at(row, middle)[0] for row in rows]
        low, high = (middle, high) if spent(rows, found) > N * D * 4 / smaller else (low, middle)
    return [pairs_at(row, high)[0] for row in rows]


def mixed(pairs: list[tuple[int, ...]]) -> MixedEmbedding:
    """Return trellis-coded rows: codes, scales and bases are random."""
    source = generator()
    weights, _ = weight_classes()
    labels = torch.randint(BASES, (N,), generator=source) * WEIGHT_CLASSES + weights
    used, labels, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    lengths = [max(i + 1 for i, bits in enumerate(own) if bits) for own in pairs]
    rank = 2 * max(lengths)
    layouts = [
        ClassLayout(size, i // WEIGHT_CLASSES, pairs[i % WEIGHT_CLASSES][: rank // 2])
        for i, size in zip(used.tolist(), sizes.tolist(), strict=True)
    ]
    layer = MixedEmbedding(N, D, layouts, [rank] * BASES)
    layer.codes.copy_(torch.randint(256, layer.codes.shape, generator=source, dtype=torch.uint8))
    layer.scales.copy_(torch.rand(layer.scales.shape, generator=source))
    layer.bases.copy_(torch.randn(layer.bases.shape, generator=source) / D**0.5)
    layer.window_values.copy_(window_values())
    layer.set_labels(labels)
    return layer


def subspaces(k: int, dtype: torch.dtype, keep: float = 0.4) -> SubspaceEmbedding:
    """Return k subspaces of equal size, and of the rank that the keep ratio gives."""
    source = generator()
    labels = torch.randperm(N, generator=source) % k
    rank = int(keep * N * D / (N + k * D))
    layer = SubspaceEmbedding(N, D, torch.bincount(labels).tolist(), [rank] * k, factor_dtype=dtype)
    with torch.no_grad():
        for part in layer.parameters():
            part.copy_(torch.randn(part.shape, generator=source) / rank**0.5)
        layer.assignment.copy_(labels)
    layer.rebuild()
    return layer


def quantized(name: str) -> QuantizedEmbedding:
    """Return rows of random codes."""
    source, layer = generator(), QuantizedEmbedding(N, D, name)
    layer.codes.copy_(torch.randint(256, layer.codes.shape, generator=source, dtype=torch.uint8).view(torch.int8))
    layer.scales.copy_(torch.rand(layer.scales.shape, generator=source))
    return layer


LAYOUTS: dict[str, Factory] = {
    "mixed, 16 x smaller": lambda: mixed(pairs_for(16)),
    "mixed, 32 x smaller": lambda: mixed(pairs_for(32)),
    "mixed, 2 bits of 300": lambda: mixed([(4,) * 150] * WEIGHT_CLASSES),
    "subspaces, 8 in float32": lambda: subspaces(8, torch.float32),
    "subspaces, 64 in float32": lambda: subspaces(64, torch.float32),
    "subspaces, 8 in bfloat16": lambda: subspaces(8, torch.bfloat16),
    "subspaces, 64 in bfloat16": lambda: subspaces(64, torch.bfloat16),
    "int8": lambda: quantized("int8"),
    "int4": lambda: quantized("int4"),
}


def drawn_ids() -> dict[str, Tensor]:
    """Return ids of each batch: by Zipf's law, and all different."""
    source, frequencies = generator(), 1 / torch.arange(1, N + 1).double()
    found = {}
    for batch in BATCHES:
        found[f"zipf {batch}"] = torch.multinomial(frequencies, batch, replacement=True, generator=source)
        found[f"different {batch}"] = torch.randperm(N, generator=source)[:batch]
    return found


def compared(ours: Callable[[], Any], rival: Callable[[], Any], repeats: int, clock: Clock) -> dict[str, float]:
    """Return the median milliseconds of two calls that take turns, and their ratio."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 2):
        for call, found in zip((ours, rival), seconds, strict=True):
            begun = clock()
            call()
            if turn > 1:
                found.append(1e3 * (clock() - begun))
    first, second = (statistics.median(own) for own in seconds)
    return {"milliseconds": first, "rival_milliseconds": second, "ratio": first / second}


def mean_rank(layer: CompressedEmbedding) -> float:
    """Return the numbers that a row is stored as, on average."""
    if isinstance(layer, MixedEmbedding):
        return sum(layout.size * len(layout.schedule.coded) for layout in layer.layouts) / N
    if isinstance(layer, SubspaceEmbedding):
        return sum(size * rank for size, rank in zip(layer.sizes, layer.ranks, strict=True)) / N
    return D


def kept(layer: CompressedEmbedding, codes: Tensor, scales: Tensor, repeats: int, clock: Clock) -> dict[str, float]:
    """Time look-ups of new tokens of the same text as 256 look-ups before, whose rows the layer keeps."""
    frequencies, source = 1 / torch.arange(1, N + 1).double(), generator()
    drawn = torch.multinomial(frequencies, (256 + repeats + 2) * 4096, replacement=True, generator=source).split(4096)
    layer.cache_rows(KEPT)
    for ids in drawn[:256]:
        layer(ids)
    ours, rival = iter(drawn[256:]), iter(drawn[256:])

    def gathered() -> Tensor:
        ids = next(rival)
        return codes.index_select(0, ids).float() * scales.index_select(0, ids)

    found = compared(lambda: layer(next(ours)), gathered, repeats, clock)
    layer.cache_rows(None)
    print(f"  {KEPT} rows kept {found['milliseconds']:8.3f} ms, {found['ratio']:7.2f} x int8", flush=True)
    return found


@torch.no_grad()
def measured(layer: CompressedEmbedding, rivals: tuple[Tensor, Tensor, Tensor], repeats: int, clock: Clock) -> Any:
    """Time one layer."""
    codes, scales, table = rivals
    values: dict[str, Any] = {"bytes": layer.size_bytes, "smaller": N * D * 4 / layer.size_bytes}
    values |= {"mean_rank": mean_rank(layer), "look_ups": {}}
    for name, ids in drawn_ids().items():
        values["look_ups"][name] = found = compared(
            lambda ids=ids: layer(ids),  # type: ignore[misc]
            lambda ids=ids: codes.index_select(0, ids).float() * scales.index_select(0, ids),  # type: ignore[misc]
            # short calls are many, so that their median is worth as much
            repeats * (1 if len(ids) > 512 else 5),
            clock,
        )
        found["distinct"] = len(torch.unique(ids))
        print(f"  {name:16s} {found['milliseconds']:8.3f} ms, {found['ratio']:7.2f} x int8", flush=True)
    values["look_ups"][f"zipf 4096, {KEPT} rows kept"] = kept(layer, codes, scales, repeats, clock)
    hidden = torch.randn(HIDDEN, D, generator=generator())
    head = compared(lambda: layer.logits(hidden), lambda: hidden @ table.T, max(3, repeats // 3), clock)
    values["head"] = head | {"wanted": values["mean_rank"] / (SHARE * D)}
    print(f"  head {head['milliseconds']:.1f} ms, {head['ratio']:.2f} x dense, wanted {values['head']['wanted']:.2f}")
    return values


def main() -> None:
    parser = command_line(__doc__)
    parser.set_defaults(repeats=15)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    source = generator()
    codes = torch.randint(-127, 128, (N, D), generator=source, dtype=torch.int8)
    rivals = codes, torch.rand(N, 1, generator=source), torch.randn(N, D, generator=source)
    values: dict[str, Any] = {"shape": [N, D], "hidden": HIDDEN, "clock": settings.clock, "wanted": {"zipf 4096": 2.0}}
    values["layouts"] = {}
    for name in settings.layouts:
        layer = LAYOUTS[name]()
        print(f"{name}: {layer.size_bytes / 1e6:.1f} MB, mean rank {mean_rank(layer):.0f}", flush=True)
        values["layouts"][name] = measured(layer, rivals, settings.repeats, CLOCKS[settings.clock])
    write_result("lookup", values, settings)


if __name__ == "__main__":
    main()
