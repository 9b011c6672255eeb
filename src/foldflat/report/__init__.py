"""From results to words: tables, Markdown, a verdict."""

from typing import Any

from rich.table import Table

__all__ = [
    "counts_in_words",
    "inspection_table",
    "latency_in_words",
    "markdown",
    "megabytes",
    "pruning_markdown",
    "pruning_scores",
    "pruning_table",
    "pruning_verdict",
    "scores_table",
    "summary_table",
    "trials_table",
    "verdict",
]


def megabytes(size: float) -> str:
    """Return bytes as MB (10^6) with two digits, small sizes as kB."""
    return f"{size / 1e6:,.2f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def verdict(report: dict[str, Any]) -> str:
    """Say in one sentence whether the result or plain integer rows is the better choice, by bytes and error."""
    table = max(report["tables"], key=lambda item: item["size_bytes_before"])
    better = [
        name
        for name, rival in table["rivals"].items()
        if rival["size_bytes"] <= table["size_bytes_after"] and rival["energy_lost"] < table["energy_lost"]
    ]
    if table["method"] in table["rivals"] or not better:
        return (
            f"`{table['name']}`: {table['method']} takes {megabytes(table['size_bytes_after'])} and loses "
            f"{table['energy_lost']:.2%} of the energy; no integer format is both smaller and closer."
        )
    name = max(better, key=lambda item: -table["rivals"][item]["energy_lost"])
    rival = table["rivals"][name]
    return (
        f"`{table['name']}`: {name} rows take {megabytes(rival['size_bytes'])} and lose {rival['energy_lost']:.3%} of "
        f"the energy, {table['method']} {megabytes(table['size_bytes_after'])} and {table['energy_lost']:.2%}. If "
        f"stored bytes are all that counts, use {name} (`--method {name}`); subspaces have fewer parameters, stay "
        "trainable and need fewer multiplications in a tied head."
    )


def counts_in_words(counts: dict[str, Any]) -> str:
    """Say how many tokens were counted in what, and how many rows they are of."""
    read = [f"{label} ({', '.join(names) or 'plain text'})" for label, names in counts["columns"].items()]
    listed = "; ".join(read[:4]) + (f"; and {len(read) - 4} more" if len(read) > 4 else "")
    return (
        f"Counted {counts['tokens']:,} tokens, special ones too, in {counts['documents']:,} documents of {listed}: "
        f"{counts['rows_seen']:,} of {counts['rows']:,} rows occur, the others count once; "
        f"{counts['unknown_share']:.2%} of the tokens are unknown."
    )


def summary_table(report: dict[str, Any]) -> Table:
    """Return one row for each table: what it was, what it is, what it lost; then what integer rows would do."""
    view = Table(title="Embedding tables")
    for heading in ("table", "shape", "method", "subspaces", "parameters", "bytes", "energy lost"):
        view.add_column(heading, justify="left" if heading in ("table", "method") else "right", overflow="fold")
    for table in report["tables"]:
        shape = " x ".join(str(axis) for axis in table["shape"])
        before = f"{table['parameters_before']:,}"
        view.add_row(table["name"], shape, "as it is", "", before, megabytes(table["size_bytes_before"]), "")
        view.add_row(
            "",
            "",
            table["method"],
            _subspaces(table),
            f"{table['parameters_after']:,}",
            megabytes(table["size_bytes_after"]),
            _lost(table, weighted=report["recipe"]["row_weights"] is not None),
        )
        for name, rival in table["rivals"].items():
            if name != table["method"]:
                size = megabytes(rival["size_bytes"])
                view.add_row("", "", f"[dim]{name} would be[/dim]", "", before, size, f"{rival['energy_lost']:.3%}")
    return view


def _lost(table: dict[str, Any], *, weighted: bool) -> str:
    plain = f"{table['energy_lost']:.3%}"
    return f"{plain}\n{table['weighted_energy_lost']:.3%} by weight" if weighted else plain


def _subspaces(table: dict[str, Any]) -> str:
    if table["n_bases"] < table["n_subspaces"]:
        return f"{table['n_subspaces']} in {table['n_bases']} bases"
    return str(table["n_subspaces"] or "")


def trials_table(table: dict[str, Any]) -> Table:
    """Return every number of subspaces that was tried, with what it lost; fewer bases mean nested subspaces."""
    view = Table(title=f"Numbers of subspaces tried for {table['name']}")
    view.add_column("subspaces", justify="right")
    view.add_column("bases", justify="right")
    view.add_column("energy lost", justify="right")
    view.add_column("rows seen", justify="right")
    for trial in table["trials"]:
        view.add_row(
            str(trial["n_subspaces"]), str(trial["n_bases"]), f"{trial['energy_lost']:.3%}", f"{trial['rows']:,}"
        )
    return view


def inspection_table(found: dict[str, Any]) -> Table:
    """Return one row for each embedding of a model."""
    view = Table(title=f"{found['model']}: {megabytes(found['size_bytes'])}")
    for heading in ("table", "shape", "type", "stored as", "bytes", "share", "tied output layer"):
        justify: Any = "right" if heading in ("shape", "bytes", "share") else "left"
        view.add_column(heading, justify=justify, overflow="fold")
    for table in found["tables"]:
        view.add_row(
            "\n".join(table["names"]) or "(the table)",
            " x ".join(str(axis) for axis in table["shape"]),
            table["dtype"],
            table["stored_as"],
            megabytes(table["size_bytes"]),
            f"{table['share']:.1%}",
            "\n".join(table["tied_heads"]) or "no",
        )
    return view


def scores_table(scores: dict[str, Any]) -> Table:
    """Return the metrics of one task, the share of the commonest label, and what was trained of quantised tables."""
    view = Table(title=f"{scores['model']} on {scores['task']}, {scores['split']} ({scores['examples']:,} examples)")
    view.add_column("metric")
    view.add_column("value", justify="right")
    for name, value in scores["metrics"].items():
        view.add_row(name, f"{value:.4f}")
    if scores["majority_baseline"] is not None:
        view.add_row("[dim]accuracy of the commonest label[/dim]", f"{scores['majority_baseline']:.4f}")
    trained = scores.get("train", {}).get("tables", {})
    if trained:
        view.caption = "\n".join(f"trained of {name}: {', '.join(parts)}" for name, parts in trained.items())
    return view


def markdown(report: dict[str, Any], *, title: str, loading: str, version: str) -> str:
    """Return the body of a model card: sizes, errors, how to load, how it was made."""
    rows = "\n".join(_markdown_row(table) for table in report["tables"])
    whole = f"{megabytes(report['model_size_bytes_before'])} -> {megabytes(report['model_size_bytes_after'])}"
    settings = "\n".join(f"- {key}: {value}" for key, value in report["recipe"].items() if value not in (None, []))
    return f"""# {title}

Embedding tables made smaller by [foldflat](https://pypi.org/project/foldflat) {version}; all other weights are the
base model's. The whole model: {whole}.

| table | shape | stored as | parameters | bytes | relative error | energy lost |
|---|---|---|---|---|---|---|
{rows}

Bytes count everything that is stored (coefficients, bases, index, scales). The relative error is that of the table,
|A - B| / |A| in the Frobenius norm; quality on a task was not measured unless said elsewhere.

{verdict(report)}

## How to load

{loading}

## Recipe

{settings}
"""


def _markdown_row(table: dict[str, Any]) -> str:
    subspaces = f", subspaces: {_subspaces(table)}" if table["n_subspaces"] else ""
    cells = (
        f"`{table['name']}`",
        f"{table['shape'][0]} x {table['shape'][1]}",
        f"{table['method']}{subspaces}",
        f"{table['parameters_before']:,} -> {table['parameters_after']:,}",
        f"{megabytes(table['size_bytes_before'])} -> {megabytes(table['size_bytes_after'])}",
        f"{table['relative_error']:.4f}",
        f"{table['energy_lost']:.3%}",
    )
    return f"| {' | '.join(cells)} |"


def pruning_table(report: dict[str, Any]) -> Table:
    """Return one row for each group of channels: what it keeps, how its sensitivity is spread, why the rest stays."""
    view = Table(title="Channels")
    for heading in ("layer", "channels", "kept", "share", "S", "layers tied to it"):
        right: Any = "right" if heading in ("channels", "kept", "share", "S") else "left"
        view.add_column(heading, justify=right, overflow="fold")
    for group in report["groups"]:
        total = "" if group["total_sensitivity"] is None else f"{group['total_sensitivity']:.2f}"
        tied = ", ".join(group["producers"][1:]) or group["note"]
        kept = round(group["keep_ratio"] * group["size"])
        view.add_row(group["name"], str(group["size"]), str(kept), f"{group['keep_ratio']:.0%}", total, tied)
    for group in report["whole"]:
        view.add_row(f"[dim]{group['name']}[/dim]", str(group["size"]), str(group["size"]), "100%", "", group["reason"])
    return view


def pruning_verdict(report: dict[str, Any]) -> str:
    """Say what the network takes now, and whether the error bound says anything at this size."""
    sizes = (
        f"parameters {report['parameters_before']:,} -> {report['parameters_after']:,}, multiplications of one example "
        f"{report['macs_before']:,} -> {report['macs_after']:,}, {megabytes(report['size_bytes_before'])} -> "
        f"{megabytes(report['size_bytes_after'])}."
    )
    return f"{sizes} {_bound_in_words(report)}".rstrip()


def pruning_scores(report: dict[str, Any]) -> Table:
    """Return accuracy of the original and after every round, pruned and retrained."""
    original = report["scores"]["original"]
    view = Table(title=f"Accuracy on {original['n']:,} images")
    for heading in ("round", "kept", "pruned", "retrained"):
        view.add_column(heading, justify="right")
    view.add_row("original", "100%", f"{original['accuracy']:.2%}", "")
    for number, entry in enumerate(report["rounds"], 1):
        after = f"{entry['retrained']['accuracy']:.2%}" if "retrained" in entry else ""
        view.add_row(str(number), f"{entry['keep_ratio']:.1%}", f"{entry['pruned']['accuracy']:.2%}", after)
    return view


def latency_in_words(report: dict[str, Any]) -> str:
    """Say how much faster a pass is at every batch size, beside the ratio of multiplications."""
    times = ", ".join(
        f"batch {size}: {1e3 * seconds['original']:.1f} -> {1e3 * seconds['compressed']:.1f} ms "
        f"({seconds['original'] / seconds['compressed']:.2f} x)"
        for size, seconds in report["latency"].items()
    )
    return f"On this machine {times}; multiplications {report['macs_before'] / max(1, report['macs_after']):.2f} x."


def _bound_in_words(report: dict[str, Any]) -> str:
    if report["recipe"]["method"] != "pfp":
        return "This method has no error bound."
    holding = [group for group in report["groups"] if group["bound_holds"]]
    examples = f"{report['examples']} examples support a bound that fails with probability {report['delta']:.1e}"
    if len(holding) == len(report["groups"]):
        return f"The error bound holds in every layer ({examples})."
    if report["recipe"]["variant"] == "deterministic":
        largest = max(group["dropped_sensitivity"] for group in report["groups"])
        value = f"the sensitivity removed from a layer, which bounds its relative error, is up to {largest:.2g}"
    else:
        value = f"epsilon is {report['epsilon']:.3g}"
    return (
        f"The error bound says nothing for {len(report['groups']) - len(holding)} of {len(report['groups'])} groups: "
        f"{value}, and only below 1 would it say something; what it gives is the share of each layer. Measure the "
        f"network on held-out data. ({examples[0].upper()}{examples[1:]}.)"
    )


def pruning_markdown(report: dict[str, Any], *, title: str, loading: str, version: str) -> str:
    """Return the body of a model card for a pruned network."""
    rows = "\n".join(
        f"| `{group['name']}` | {group['size']} | {round(group['keep_ratio'] * group['size'])} |"
        for group in report["groups"]
    )
    settings = "\n".join(f"- {key}: {value}" for key, value in report["recipe"].items() if value not in (None, []))
    return f"""# {title}

Filters removed by [foldflat](https://pypi.org/project/foldflat) {version}. {pruning_verdict(report)}

{_scores_in_words(report)}| layer | channels before | after |
|---|---|---|
{rows}

## How to load

{loading}

## Recipe

{settings}
"""


def _scores_in_words(report: dict[str, Any]) -> str:
    if "scores" not in report:
        return ""
    original, found = report["scores"]["original"], report["scores"]["compressed"]
    return f"Accuracy on {found['n']:,} images: {original['accuracy']:.2%} before, {found['accuracy']:.2%} now.\n\n"
