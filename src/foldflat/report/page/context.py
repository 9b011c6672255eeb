"""The parts of the page in order: figures and tables of each model, made from the document alone."""

import dataclasses
from typing import Any

from foldflat.report.page.bars import Bar, bar_chart
from foldflat.report.page.charts import (
    SMALL,
    Axis,
    Line,
    Point,
    Reference,
    category_axis,
    line_chart,
    share_axis,
)
from foldflat.report.page.drops import drop_tables, mean_table, score_table, task_order, task_table
from foldflat.report.page.sizes import band_name, band_table, part_table, size_table, subspace_table
from foldflat.report.page.tables import Table
from foldflat.report.page.words import bytes_in_words, compression, length, method_order, rate, score, share

__all__ = ["Figure", "Length", "Model", "models_of"]

Rows = list[dict[str, Any]]
_ACROSS = "stored bytes of the table, share of the original (log scale)"


@dataclasses.dataclass(frozen=True)
class Figure:
    """Hold a chart, what stands above it, and whether its task is in no mean."""

    heading: str
    svg: str
    apart: bool = False


@dataclasses.dataclass(frozen=True)
class Length:
    """Hold what was found after one length of fine-tuning."""

    words: str
    mean: Figure | None
    table: Table | None
    tasks: tuple[Figure, ...]
    tables: tuple[Table, ...]


@dataclasses.dataclass(frozen=True)
class Model:
    """Hold the section of a model."""

    name: str
    title: str
    summary: dict[str, Any]
    methods: tuple[str, ...]
    lengths: tuple[Length, ...]
    size_chart: str
    sizes: tuple[Table, ...]
    band_charts: tuple[Figure, ...]
    bands: tuple[Table, ...]
    subspaces: tuple[Table, ...]


def models_of(document: dict[str, Any]) -> list[Model]:
    """Return the sections of all models, in the order of the statistics."""
    names = dict.fromkeys(group["model"] for group in document["statistics"]["groups"])
    return [_model(document, name, f"m{i}") for i, name in enumerate(names)]


def _model(document: dict[str, Any], name: str, key: str) -> Model:
    def own(items: Rows) -> Rows:
        return [item for item in items if item["model"] == name]

    sizes, bands, parts = own(document["sizes"]), own(document["bands"]), own(document["parts"])
    groups = own(document["statistics"]["groups"])
    size_tables = [size_table(sizes)] if sizes else []
    return Model(
        name=name,
        # of a path what it ends in
        title=name.rstrip("/").rpartition("/")[2] or name,
        summary=own(document["summary"])[0],
        methods=tuple(sorted({size["method"] for size in sizes}, key=method_order)),
        lengths=tuple(_length(group, sizes, f"{key}-{i}") for i, group in enumerate(groups)),
        size_chart=_size_chart(sizes, f"{key}-sizes") if sizes else "",
        sizes=(*size_tables, *([part_table(parts)] if parts else [])),
        band_charts=_band_charts(bands, f"{key}-bands"),
        bands=(band_table(bands),) if bands else (),
        subspaces=tuple(subspace_table(example) for example in own(document["subspaces"])),
    )


def _length(group: dict[str, Any], sizes: Rows, key: str) -> Length:
    shares = {(size["method"], size["rate"]): size["share"]["mean"] for size in sizes}
    across = share_axis(list(shares.values()), _ACROSS)
    return Length(
        words=length(group),
        mean=_mean_chart(group, shares, across, f"{key}-mean") if group["drops"] else None,
        table=mean_table(group, sizes) if group["drops"] else None,
        tasks=tuple(
            _task_chart(group, task, shares, across, f"{key}-{i}") for i, task in enumerate(task_order(group["tasks"]))
        ),
        tables=(*drop_tables(group), score_table(group), task_table(group)),
    )


def _lines(points: dict[str, list[Point]]) -> list[Line]:
    return [
        Line(method, tuple(sorted(points[method], key=lambda p: p.x))) for method in sorted(points, key=method_order)
    ]


def _mean_chart(group: dict[str, Any], shares: dict[Any, float], across: Axis, key: str) -> Figure:
    """Draw the mean change of every method, paired by seed, against its table's bytes."""
    points: dict[str, list[Point]] = {}
    for row in group["drops"]:
        if row["absolute"] is not None and not row["missing"]:
            x, found = shares[row["method"], row["rate"]], row["absolute"]
            turned = {**found, "mean": -found["mean"]}
            words = f"{_at(row)}{score(turned)} points with {share(x)} of the bytes"
            points.setdefault(row["method"], []).append(Point(x, 100 * turned["mean"], _points(found), words))
    reference = group["reference"]
    spread = None if reference is None else _points(reference)
    noise = "" if spread is None else f" ± {spread:.2f} over seeds"
    level = Reference(0.0, spread, f"uncompressed: 0{noise}")
    title = f"Mean over tasks, {length(group)}: change against the uncompressed model by stored bytes"
    svg = line_chart(key, title, _lines(points), across, "change of the mean, points", reference=level)
    return Figure(f"Mean, {length(group)}", svg)


def _task_chart(group: dict[str, Any], task: str, shares: dict[Any, float], across: Axis, key: str) -> Figure:
    points: dict[str, list[Point]] = {}
    level = None
    for row in group["scores"]:
        if row["task"] != task:
            continue
        found = row["score"]
        if row["method"] == "none":
            level = Reference(100 * found["mean"], _points(found), f"uncompressed: {score(found)}")
        else:
            x = shares[row["method"], row["rate"]]
            words = f"{_at(row)}{score(found)} points with {share(x)} of the bytes"
            points.setdefault(row["method"], []).append(Point(x, 100 * found["mean"], _points(found), words))
    title = f"{task}, {length(group)}: score by stored bytes"
    svg = line_chart(key, title, _lines(points), across, "points", size=SMALL, reference=level)
    return Figure(task, svg, apart=not group["tasks"][task]["counts"])


def _at(row: dict[str, Any]) -> str:
    return "" if row["rate"] is None else f"compression {compression(row['method'], row['rate'])}: "


def _points(found: dict[str, Any]) -> float | None:
    return None if found["deviation"] is None else 100 * float(found["deviation"])


def _size_chart(sizes: Rows, key: str) -> str:
    """Draw the whole model before and after each method and rate, the table apart from the rest."""
    before = sizes[0]["size_bytes_before"]["mean"], sizes[0]["model_size_bytes_before"]["mean"]
    bars = [_bar("before", *before)]
    for size in sizes:
        found = size["size_bytes_after"]["mean"], size["model_size_bytes_after"]["mean"]
        bars.append(_bar(f"{size['method']} {rate(size['rate'])}".strip(), *found))
    return bar_chart(key, "Stored bytes of the whole model: the compressed table and the rest", bars)


def _bar(label: str, table: float, model: float) -> Bar:
    parts = (
        (f"table {bytes_in_words(table)}", "table", table),
        (f"all else {bytes_in_words(model - table)}", "rest", model - table),
    )
    return Bar(label, parts, bytes_in_words(model))


def _band_charts(bands: Rows, key: str) -> tuple[Figure, ...]:
    """Draw for each rate the energy lost by band; methods of one size are in each."""
    rates = sorted({item["rate"] for item in bands if item["rate"] is not None})
    return tuple(_band_chart(bands, value, f"{key}-{i}") for i, value in enumerate(rates))


def _band_chart(bands: Rows, value: float, key: str) -> Figure:
    own = [item for item in bands if item["rate"] in (value, None)]
    ordered = sorted({(band["low"], band_name(band)) for item in own for band in item["bands"]})
    names = [name for _, name in ordered]
    points = {
        item["method"]: [
            Point(
                names.index(band_name(band)),
                100 * band["energy_lost"]["mean"],
                None,
                f"tokens that occur {band_name(band)} times: {share(band['energy_lost']['mean'])}",
            )
            for band in item["bands"]
        ]
        for item in own
    }
    across = category_axis(names, "how often a token occurs")
    title = f"Energy lost by token frequency at {rate(value)} compression"
    svg = line_chart(key, title, _lines(points), across, "energy lost, %", size=SMALL, from_zero=True)
    return Figure(f"{rate(value)} compression", svg)
