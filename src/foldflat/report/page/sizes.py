"""Tables of sizes, losses by token frequency, subspaces and settings."""

from typing import Any

from foldflat.report.page.tables import Cell, Rows, Table, changes_of, table_of
from foldflat.report.page.words import bytes_in_words, compression, length, listed, share

__all__ = [
    "band_name",
    "band_table",
    "learning_rate_table",
    "machine_table",
    "part_table",
    "size_table",
    "subspace_table",
]


def band_name(band: dict[str, Any]) -> str:
    """Return how often the tokens of a band occur, in a word or two."""
    low, high = band["low"], band["high"]
    if high is None:
        return f"{low:,}+"
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def size_table(sizes: Rows) -> Table:
    """Return stored bytes of table and model by method and rate, and what the table consists of."""
    names = list(dict.fromkeys(name for size in sizes for name in size["stored"]))
    rows = [
        [
            size["method"],
            compression(size["method"], size["rate"]),
            share(size["parameters_share"]["mean"]),
            _bytes(size["size_bytes_after"]),
            share(size["share"]["mean"]),
            *(_bytes(size["stored"][name]) if name in size["stored"] else "" for name in names),
            _bytes(size["model_size_bytes_after"]),
        ]
        for size in sizes
    ]
    before = sizes[0]["size_bytes_before"], sizes[0]["model_size_bytes_before"]
    caption = (
        f"Stored bytes after compression. Before: the table {_bytes(before[0])}, the whole model {_bytes(before[1])}. "
        "Ranges are over cells."
    )
    headings = ("method", "compression", "parameters", "table", "of its bytes", *names, "whole model")
    return table_of(caption, headings, rows, texts=1, first=changes_of(size["method"] for size in sizes))


def part_table(parts: Rows) -> Table:
    """Return the bytes of every part of a model before and after."""
    total = sum(part["before"]["mean"] for part in parts)
    rows = [
        [
            part["part"],
            _bytes(part["before"]),
            share(part["before"]["mean"] / total),
            _bytes(part["after"]) if part["changed"] else "the same",
        ]
        for part in parts
    ]
    caption = "Every part of the model before and after, largest first; ranges are over methods, rates and tasks."
    quiet = frozenset(i for i, part in enumerate(parts) if not part["changed"])
    return table_of(caption, ("part", "before", "of the model", "after"), rows, quiet=quiet)


def _bytes(found: dict[str, float]) -> str:
    return bytes_in_words(found["low"], found["high"])


def band_table(bands: Rows) -> Table:
    """Return the energy lost of every band of token frequencies by method and rate, cosines below."""
    names = list(dict.fromkeys(band_name(band) for item in _longest_first(bands) for band in item["bands"]))
    rows: list[list[Cell | str]] = []
    for item in bands:
        own = {band_name(band): band for band in item["bands"]}
        cells = (
            Cell(share(own[name]["energy_lost"]["mean"]), f"cos {own[name]['cosine']['mean']:.3f}")
            if name in own
            else Cell()
            for name in names
        )
        rows.append([item["method"], compression(item["method"], item["rate"]), *cells])
    shares = {band_name(band): band["share"]["mean"] for item in bands for band in item["bands"]}
    rows.insert(0, ["share of all uses", "", *(share(shares[name]) for name in names)])
    caption = "Energy lost by how often a token occurs, cosines below."
    lines = frozenset({1, *(i + 1 for i in changes_of(row["method"] for row in bands))})
    headings = ("method", "compression", *(_times(name) for name in names))
    return table_of(caption, headings, rows, first=lines, quiet=frozenset({0}))


def _times(name: str) -> str:
    return "never" if name == "0" else f"{name} times"


def _longest_first(bands: Rows) -> Rows:
    return sorted(bands, key=lambda item: -len(item["bands"]))


def subspace_table(example: dict[str, Any]) -> Table:
    """Return an example of which tokens share a subspace."""
    at = f" at {compression(example['method'], example['rate'])}" if example["rate"] is not None else ""
    rows: list[list[Cell | str]] = [
        [str(i + 1), Cell(tokens=tuple(own["tokens"])), str(own["rank"]), f"{own['rows']:,}", share(own["share"])]
        for i, own in enumerate(example["subspaces"])
    ]
    caption = f"{example['method']}{at}, {example['task']}, seed {example['seed']}."
    return table_of(caption, ("subspace", "tokens", "rank", "rows", "of all uses"), rows, texts=2)


def learning_rate_table(found: Rows) -> Table:
    """Return how many cells used which learning rate."""
    several = len({row["model"] for row in found}) > 1
    rows = [
        [*([row["model"]] * several), row["method"], length(row), f"{row['learning_rate']:g}", str(row["cells"])]
        for row in found
    ]
    caption = "Peak learning rates of the runs after compression."
    headings = (*(["model"] * several), "method", "length", "learning rate", "cells")
    return table_of(caption, headings, rows, texts=2 + several)


def machine_table(machines: Rows) -> Table:
    """Return what the cells were computed on."""
    rows = [
        [
            f"{row['processor']}, {row['device']}" if row["device"] != "cpu" else row["processor"],
            listed(f"{name} {row[name]}" for name in ("foldflat", "torch", "transformers", "python")),
            str(row["threads"]),
            str(row["cells"]),
            f"{row['seconds'] / 3600:.2f}",
        ]
        for row in machines
    ]
    caption = (
        "What the cells were computed on; hours are the sum over cells, without their parents and the choice of "
        "learning rates."
    )
    return table_of(caption, ("machine", "versions", "threads", "cells", "hours"), rows, texts=2)
