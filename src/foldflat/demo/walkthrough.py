"""The demo from start to end."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import foldflat
from foldflat.checkpoint import check_target, save
from foldflat.demo.classifier import Bench, cached_bench
from foldflat.demo.comparison import Row, compare, recipes
from foldflat.demo.corpus import Corpus, build_corpus
from foldflat.demo.machine import describe_machine
from foldflat.demo.reload import check_reload
from foldflat.demo.settings import DemoSettings
from foldflat.demo.table import comparison_table, conclusion, standard_error
from foldflat.evaluate.optional import require
from foldflat.pipeline import Result
from foldflat.report import markdown

__all__ = ["run_demo"]


def run_demo(
    *,
    output: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
    settings: DemoSettings | None = None,
) -> dict[str, Any]:
    """Train a small classifier, compress its table every way, compare, save the best subspaces and reload them.

    Needs no network: the text is the standard library's source. The classifier is cached (see
    `foldflat.demo.machine.cache_folder`), so a second run takes half the time.

    Args:
        output: folder for the best subspaces; one beside the cached classifier where None, replaced each time.
        seed: everything random follows from it.
        progress: print what happens (stderr), the table and the conclusion (stdout); False prints nothing.
        settings: the defaults are the demo; smaller ones are for tests.

    Returns:
        Every figure, the settings, seed, machine and folders, JSON-serialisable.

    Raises:
        MissingDependencyError: an extra is not installed.
        DataError: the standard library has too little source text.
        TargetExistsError: `output` exists and is not empty; raised before any work.
        CheckpointError: a folder cannot be written, or the reloaded model differs in any bit.
    """
    start = time.perf_counter()
    _require_extras()
    if output is not None:
        check_target(output)
    settings = settings or DemoSettings()
    out, err = Console(quiet=not progress), Console(stderr=True, quiet=not progress)
    corpus = build_corpus(settings.corpus, seed=seed)
    _print_corpus(corpus, err)
    bench = cached_bench(corpus, settings, seed, err)
    with _watching(err, 1 + len(recipes(settings, seed))) as watch:
        rows, best, best_row = compare(bench, settings, seed, watch=watch)
    out.print(comparison_table(rows, _title(bench, corpus)))
    out.print(
        f"fine-tuned: after {settings.finetune_epochs:g} more epoch, the uncompressed model too.", highlight=False
    )
    out.print(conclusion(rows, len(corpus.validation)), highlight=False)
    folder = Path(output) if output is not None else bench.folder.with_name(f"{bench.folder.name}-best")
    _save(best, best_row, bench, folder, overwrite=output is None)
    reloaded = check_reload(best.model, bench.tokenizer, folder, corpus.validation)
    _print_saved(best_row, folder, reloaded, out)
    return {
        "seed": seed,
        "settings": dataclasses.asdict(settings),
        "machine": describe_machine(),
        "corpus": _corpus_facts(corpus),
        "classifier": _classifier_facts(bench),
        "standard_error": standard_error(rows[0].accuracy, len(corpus.validation)),
        "rows": [dataclasses.asdict(row) for row in rows],
        "conclusion": conclusion(rows, len(corpus.validation)),
        "saved": {"folder": str(folder), **dataclasses.asdict(best_row)},
        "reload": reloaded,
        "seconds": time.perf_counter() - start,
    }


def _require_extras() -> None:
    for module in ("transformers", "tokenizers", "accelerate"):
        require(module, "hf")
    require("datasets", "eval")


@contextmanager
def _watching(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar of methods done, with the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as bar:
        task = bar.add_task("", total=total)
        started = 0

        def watch(name: str) -> None:
            nonlocal started
            bar.update(task, completed=started, description=f"compressing and fine-tuning: {name}")
            started += 1

        yield watch


def _save(result: Result, row: Row, bench: Bench, folder: Path, *, overwrite: bool) -> None:
    """Write the fine-tuned result with tokenizer and model card."""
    name = type(result.model).__name__
    loading = (
        f'Needs `pip install "foldflat[hf]"`.\n\n```python\nimport foldflat\nfrom transformers import {name}\n\n'
        f"model = {name}.from_pretrained(FOLDER)\n```"
    )
    card = markdown(result.report, title="foldflat demo", loading=loading, version=foldflat.__version__)
    measured = (
        f"Accuracy on {len(bench.validation):,} validation passages: {row.accuracy:.4f} as compressed, "
        f"{row.accuracy_finetuned:.4f} after the fine-tuning that these weights are the end of; errors of the table "
        "are those before it.\n"
    )

    def extra(unfinished: Path) -> None:
        bench.tokenizer.save_pretrained(unfinished)
        (unfinished / "README.md").write_text(f"{card}\n{measured}", encoding="utf-8")

    save(result, folder, overwrite=overwrite, extra=extra)


def _print_corpus(corpus: Corpus, console: Console) -> None:
    console.print(
        f"From which of {len(corpus.modules)} modules of Python's standard library does a passage come? "
        f"{len(corpus.train):,} passages to train on, {len(corpus.validation):,} from other parts of the files to "
        "validate on."
    )


def _print_saved(row: Row, folder: Path, reloaded: dict[str, Any], console: Console) -> None:
    console.print(
        f"{row.method} at {row.keep_ratio:.0%}, fine-tuned, is saved in {folder}; a new process reads it and gives "
        f"the same {reloaded['logits']:,} logits bit for bit.",
        highlight=False,
        soft_wrap=True,
    )


def _title(bench: Bench, corpus: Corpus) -> str:
    table = bench.model.get_input_embeddings().weight
    return (
        f"Word table {table.shape[0]:,} x {table.shape[1]} ({_table_share(bench):.0%} of the parameters); "
        f"accuracy on {len(corpus.validation):,} passages"
    )


def _table_share(bench: Bench) -> float:
    total = sum(parameter.numel() for parameter in bench.model.parameters())
    return float(bench.model.get_input_embeddings().weight.numel() / total)


def _corpus_facts(corpus: Corpus) -> dict[str, Any]:
    return {
        "modules": list(corpus.modules),
        "train_passages": len(corpus.train),
        "validation_passages": len(corpus.validation),
        "sha256": corpus.fingerprint(),
    }


def _classifier_facts(bench: Bench) -> dict[str, Any]:
    return {
        "folder": str(bench.folder),
        "from_cache": bench.from_cache,
        "training_seconds": bench.training_seconds,
        "parameters": sum(parameter.numel() for parameter in bench.model.parameters()),
        "table_shape": list(bench.model.get_input_embeddings().weight.shape),
        "table_share": _table_share(bench),
    }
