"""The demo's uncompressed model: a small DistilBERT that names the module a passage comes from, trained once."""

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from foldflat.checkpoint import writing_folder
from foldflat.demo.cooccurrence import cooccurrence_table
from foldflat.demo.corpus import Corpus, Passage
from foldflat.demo.machine import cache_folder, versions
from foldflat.demo.settings import DemoSettings
from foldflat.demo.tokenizer import train_tokenizer
from foldflat.evaluate import TrainingSettings, predict_logits, train_classifier
from foldflat.evaluate.isolation import quiet_transformers, random_state_restored
from foldflat.evaluate.optional import require
from foldflat.model.manifest import file_sha256

__all__ = ["Bench", "accuracy", "cached_bench", "encode"]

_FACTS = "demo.json"
_WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class Bench:
    """Hold what every method is measured with: the trained model, its tokenizer, both splits as data sets.

    `folder` is where model and tokenizer lie; `from_cache` tells whether an earlier run trained them, in
    `training_seconds`.
    """

    model: Any
    tokenizer: Any
    train: Any
    validation: Any
    folder: Path
    from_cache: bool
    training_seconds: float


def cached_bench(corpus: Corpus, settings: DemoSettings, seed: int, console: Console) -> Bench:
    """Train the classifier, or take it from the cache where the same text, settings and versions left one.

    The cache is written beside and renamed. One whose weights were damaged is trained again, and `console`
    says so.
    """
    folder = cache_folder() / "demo" / _key(corpus, settings, seed)
    facts = _read_facts(folder, console)
    if facts is None:
        _train_into(folder, corpus, settings, seed, console)
    else:
        console.print(f"Classifier of an earlier run: {folder}", soft_wrap=True, highlight=False)
    return _open(folder, corpus, from_cache=facts is not None)


def encode(passages: list[Passage], tokenizer: Any) -> Any:
    """Return passages as a `datasets.Dataset` of token ids, attention masks and labels."""
    columns = tokenizer([passage.text for passage in passages], truncation=True)
    labels = [passage.label for passage in passages]
    return require("datasets", "eval").Dataset.from_dict({**columns, "labels": labels})


def accuracy(model: Any, dataset: Any, tokenizer: Any) -> float:
    """Return the share of rows whose largest logit is at their label."""
    logits = predict_logits(model, dataset, tokenizer=tokenizer)
    return float(np.mean(logits.argmax(axis=1) == np.asarray(dataset["labels"][:])))


def _key(corpus: Corpus, settings: DemoSettings, seed: int) -> str:
    """Name everything that the trained weights depend on, but for the processor."""
    asked = [dataclasses.asdict(settings), seed, versions(), corpus.fingerprint()]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _read_facts(folder: Path, console: Console) -> dict[str, Any] | None:
    if not folder.is_dir():
        return None
    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        intact = file_sha256(folder / _WEIGHTS) == facts["sha256"]
    except (OSError, ValueError, KeyError):
        intact = False
    if not intact:
        console.print(f"{folder} is damaged; training the classifier again", soft_wrap=True)
        return None
    return facts


def _train_into(folder: Path, corpus: Corpus, settings: DemoSettings, seed: int, console: Console) -> None:
    console.print("Training a tokenizer and a classifier, about two minutes on two cores; later runs reuse them")
    start = time.perf_counter()
    texts = [passage.text for passage in corpus.train]
    tokenizer = train_tokenizer(texts, vocabulary=settings.vocabulary, max_length=settings.max_length)
    train = encode(corpus.train, tokenizer)
    model = _new_model(corpus.modules, train["input_ids"][:], tokenizer, settings, seed)
    training = TrainingSettings(
        seed=seed,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        max_length=settings.max_length,
    )
    train_classifier(model, train, tokenizer=tokenizer, settings=training, progress=not console.quiet)
    seconds = time.perf_counter() - start
    with writing_folder(folder, overwrite=True) as unfinished, quiet_transformers():
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        facts = {"sha256": file_sha256(unfinished / _WEIGHTS), "seconds": seconds}
        (unfinished / _FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _new_model(modules: tuple[str, ...], sequences: Any, tokenizer: Any, settings: DemoSettings, seed: int) -> Any:
    transformers = require("transformers", "hf")
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=settings.max_length,
        dim=settings.dim,
        hidden_dim=settings.hidden_dim,
        n_layers=settings.layers,
        n_heads=settings.heads,
        initializer_range=settings.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(modules)),
        label2id={name: label for label, name in enumerate(modules)},
    )
    with random_state_restored():
        torch.manual_seed(seed)
        model = transformers.DistilBertForSequenceClassification(config)
    table = cooccurrence_table(
        sequences, len(tokenizer), settings.dim, window=settings.window, std=settings.table_std, seed=seed
    )
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(table)
    return model


def _open(folder: Path, corpus: Corpus, *, from_cache: bool) -> Bench:
    transformers = require("transformers", "hf")
    with quiet_transformers():
        model = transformers.DistilBertForSequenceClassification.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return Bench(
        model=model,
        tokenizer=tokenizer,
        train=encode(corpus.train, tokenizer),
        validation=encode(corpus.validation, tokenizer),
        folder=folder,
        from_cache=from_cache,
        training_seconds=json.loads((folder / _FACTS).read_text(encoding="utf-8"))["seconds"],
    )
