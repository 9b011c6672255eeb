"""Promises on real data: how often they are broken on fresh examples, against the rule that trusts what it measures.

Candidates are made once. Then, for each of twenty random halves, the search of `foldflat compress --max-drop` chooses
and certifies on one half, and the other checks: a promise is broken where even the exact 95 % lower bound of the drop
there is above the limit. The naive rule takes the smallest candidate whose measured drop on the same half is below it.

    python experiments/certify/splits.py resnet20 sst2 [--threads 1]

resnet20: the network of the shared models on the 10,000 test images of CIFAR-10, pruned without retraining, planned on
2,000 training images that no candidate was calibrated on. sst2: minibert fine-tuned for 600 steps on the training rows
but 8,000 (seed 0), whose table is stored in ever fewer bytes; the 8,000 rows and the 872 of the validation split
certify and check, 2,000 other training rows plan.

What candidates answered is kept in build/certify, so that searches can be repeated without them; delete it where models
or their compression have changed.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from filters.nets import ResNet20
from shared import DATA, ROOT, hardware, write_json

from foldflat.certify import Risk, accuracy_drop, paired_upper_bound
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import BudgetError
from foldflat.evaluate import TrainingSettings, calibration_batches, finetune_classifier, hold_out, load_images
from foldflat.filters.recipe import FilterRecipe
from foldflat.pipeline import Result, compress
from foldflat.workflow.certificates import Ladder, Promise, TaskData, search
from foldflat.workflow.certificates.compressing import embedding_recipes
from foldflat.workflow.certificates.images import labelled
from foldflat.workflow.certificates.promise import Examples
from foldflat.workflow.certificates.pruning import filter_recipes
from foldflat.workflow.certificates.testing import Original
from foldflat.workflow.networks import open_network
from foldflat.workflow.weighting import TextSample, count_text

RESULTS = Path(__file__).resolve().parent / "results"
LIMITS = (0.005, 0.01, 0.02)
SPLITS = 20
ORIGINAL = "original"


@dataclasses.dataclass(frozen=True)
class Computed:
    """Hold logits of every candidate, by name, on examples; see `foldflat.workflow.certificates.promise.Examples`."""

    logits: dict[str, NDArray[Any]]
    labels: NDArray[np.int64]
    hashes: list[str]
    about: dict[str, Any]
    risks: tuple[str, ...] = ("accuracy-drop",)

    def part(self, positions: list[int]) -> Self:
        """Return some of them."""
        logits = {name: values[positions] for name, values in self.logits.items()}
        hashes = [self.hashes[i] for i in positions]
        return dataclasses.replace(self, logits=logits, labels=self.labels[positions], hashes=hashes)

    def outputs(self, model: str, *, progress: bool = False) -> NDArray[Any]:  # noqa: ARG002
        """Return what was computed."""
        return self.logits[model]

    def measure(self, risk: str, original: NDArray[Any], compressed: NDArray[Any]) -> Risk:  # noqa: ARG002
        """Return the drop of each example."""
        return accuracy_drop(original, compressed, self.labels)

    def drop(self, name: str) -> Risk:
        """Return a candidate's drop."""
        return self.measure("", self.logits[ORIGINAL], self.logits[name])


@dataclasses.dataclass
class Subject:
    """Hold an original, its candidates by name, what is made of each, and examples."""

    original: Any
    names: list[str]
    make: Callable[[str], Result]
    planning: Examples
    pool: Examples


def resnet20() -> Subject:
    """Return pruned networks; nothing is retrained."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "filters"))
    network = open_network("nets:ResNet20", DATA / "models" / "resnet20-cifar10" / "model.safetensors")
    assert isinstance(network.model, torch.nn.Module)
    assert type(network.model).__name__ == ResNet20.__name__
    train, test = (load_images(DATA / "data" / "cifar10", split) for split in ("train", "test"))
    rest, held = hold_out(train, 2000)
    recipes = filter_recipes(FilterRecipe(keep_ratio=0.98))
    batches = calibration_batches(rest, 200, 0, 50)
    return Subject(
        network.model,
        list(recipes),
        lambda name: compress(network.model, recipes[name], batches),
        labelled(held, "train, held out"),
        labelled(test, "test"),
    )


def sst2() -> Subject:
    """Return classifiers whose table takes ever fewer bytes; rows are weighted by counts of the training texts."""
    folder = Path(tempfile.mkdtemp())
    data = _with_more_held_out(folder / "glue", 8000)
    settings = TrainingSettings(max_steps=600, learning_rate=5e-4, seed=0, bf16=True)
    tuned = finetune_classifier(str(DATA / "models" / "minibert"), "sst2", data, settings=settings, progress=False)
    model, tokenizer = tuned.model.eval(), tuned.tokenizer
    task = TaskData("sst2", data)
    planning = task.examples("train", tokenizer)
    drawn = np.random.default_rng(0).permutation(len(planning.hashes))[:2000]
    table = model.get_input_embeddings().weight
    recipe = EmbeddingRecipe(method="auto", row_weights="auto")
    recipes = embedding_recipes(recipe, table.numel() * table.element_size())
    tokenizer.save_pretrained(folder / "model")
    model.save_pretrained(folder / "model")
    counts = count_text(str(folder / "model"), TextSample((f"{data}:sst2:train",)))
    return Subject(
        model,
        list(recipes),
        lambda name: compress(model, recipes[name], counts),
        planning.part(sorted(drawn.tolist())),
        task.examples("validation", tokenizer),
    )


def _with_more_held_out(folder: Path, n: int) -> str:
    """Write sst2 with n training rows, drawn at random, moved to its validation split; return the folder."""
    from datasets import Value, concatenate_datasets, load_dataset

    rows = load_dataset(str(DATA / "data" / "glue"), "sst2")
    rows = rows.select_columns(["sentence", "label"]).cast_column("label", Value("int64"))
    order = np.random.default_rng(1).permutation(len(rows["train"]))
    place = folder / "sst2"
    place.mkdir(parents=True)
    rows["train"].select(order[n:]).to_parquet(place / "train.parquet")
    concatenate_datasets([rows["validation"], rows["train"].select(order[:n])]).to_parquet(place / "validation.parquet")
    listed = "".join(f"  - split: {split}\n    path: sst2/{split}.parquet\n" for split in ("train", "validation"))
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: sst2\n  data_files:\n{listed}---\n")
    return str(folder)


def kept(name: str, make: Callable[[], Subject]) -> tuple[Computed, Computed, list[dict[str, Any]]]:
    """Return what `computed` does, from a file where there is one."""
    file = ROOT / "build" / "certify" / f"{name}.npz"
    if not file.is_file():
        *parts, rows = computed(make())
        arrays: dict[str, Any] = {"rows": json.dumps(rows)}
        for i, part in enumerate(parts):
            about = json.dumps(part.about)
            arrays |= {f"{i} labels": part.labels, f"{i} hashes": np.array(part.hashes), f"{i} about": about}
            arrays |= {f"{i} logits {own}": values for own, values in part.logits.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **arrays)
    with np.load(file) as arrays:
        first, second = (_part(arrays, f"{i} ") for i in range(2))
        return first, second, json.loads(str(arrays["rows"]))


def _part(arrays: Any, prefix: str) -> Computed:
    logits = f"{prefix}logits "
    return Computed(
        {name.removeprefix(logits): arrays[name] for name in arrays.files if name.startswith(logits)},
        arrays[f"{prefix}labels"],
        arrays[f"{prefix}hashes"].tolist(),
        json.loads(str(arrays[f"{prefix}about"])),
    )


def computed(subject: Subject) -> tuple[Computed, Computed, list[dict[str, Any]]]:
    """Return logits of all candidates on examples to plan with and on the others, and what each candidate is."""
    kinds = (subject.planning, subject.pool)
    logits = [{ORIGINAL: examples.outputs(subject.original)} for examples in kinds]
    rows: list[dict[str, Any]] = []
    for name in subject.names:
        started = time.perf_counter()
        try:
            result = subject.make(name)
        except BudgetError:
            break
        made = time.perf_counter() - started
        started = time.perf_counter()
        for own, examples in zip(logits, kinds, strict=True):
            own[name] = examples.outputs(result.model)
        rows.append(
            {
                "name": name,
                **{key: result.report.get(key) for key in ("parameters_after", "size_bytes_after", "keep_ratio")},
                "seconds_to_make": made,
                "seconds_of_passes": time.perf_counter() - started,
            }
        )
        print(rows[-1], flush=True)
    found = [
        Computed(own, _labels(examples), list(examples.hashes), dict(examples.about))
        for own, examples in zip(logits, kinds, strict=True)
    ]
    for row in rows:
        row["drop"] = found[1].drop(row["name"]).mean
    return found[0], found[1], rows


def _labels(examples: Any) -> NDArray[np.int64]:
    return np.asarray(examples.dataset.labels if hasattr(examples, "dataset") else examples.rows["labels"][:])


def one_split(planning: Computed, pool: Computed, names: list[str], limit: float, seed: int) -> dict[str, Any]:
    """Certify on one half and check on the other, by the search and by the naive rule."""
    order = np.random.default_rng(seed).permutation(len(pool.hashes)).tolist()
    half = len(order) // 2
    certifying, fresh = pool.part(order[:half]), pool.part(order[half:])
    with tempfile.TemporaryDirectory() as folder:
        ladder = Ladder(names, lambda name: Result(name, None, {}), {"seed": seed})  # type: ignore[arg-type]
        promise = Promise(limit, ledger=Path(folder) / "ledger")
        original = Original(ORIGINAL, ORIGINAL, "0")
        found = search(original, ladder, planning, certifying, promise, plan_examples=len(planning.hashes))
    passing = [name for name in names if certifying.drop(name).mean <= limit]
    return {
        "limit": limit,
        "seed": seed,
        "certified": _checked(found.report["chosen"], fresh, pool, limit),
        "naive": _checked(passing[-1] if passing else None, fresh, pool, limit),
        "tested": len(found.report["tested"]),
        "planned": len(found.report["planned"]),
        "full_passes": _full_passes(found.report, len(certifying.hashes)),
    }


def _full_passes(report: dict[str, Any], n: int) -> float:
    """Return the examples that models were run on, over those of a full pass: the original and a candidate, on all."""
    planned, tested = (sum(row["examples"] for row in report[kind]) for kind in ("planned", "tested"))
    return float((report["planned_with"]["examples"] + planned + n + tested) / (2 * n))


def _checked(name: str | None, fresh: Computed, pool: Computed, limit: float) -> dict[str, Any] | None:
    if name is None:
        return None
    values = fresh.drop(name).values
    worse, better = int((values == 1).sum()), int((values == -1).sum())
    return {
        "name": name,
        "fresh_drop": float(values.mean()),
        "fresh_lower_bound": -paired_upper_bound(better, worse, len(values), 0.05),
        "broken": -paired_upper_bound(better, worse, len(values), 0.05) > limit,
        "above_on_all": pool.drop(name).mean > limit,
    }


def main() -> None:
    """Compute every subject that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    subjects: dict[str, Callable[[], Subject]] = {"resnet20": resnet20, "sst2": sst2}
    parser.add_argument("subjects", nargs="+", choices=list(subjects))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.subjects:
        planning, pool, candidates = kept(name, subjects[name])
        names = [row["name"] for row in candidates]
        rows = [one_split(planning, pool, names, limit, seed) for limit in LIMITS for seed in range(SPLITS)]
        for limit in LIMITS:
            own = [row for row in rows if row["limit"] == limit]
            passes = [row["full_passes"] for row in own]
            print(f"{name} {limit:g}: full passes {np.mean(passes):.2f}, {min(passes):.2f} to {max(passes):.2f}")
            for rule in ("certified", "naive"):
                chosen = [row[rule] for row in own if row[rule]]
                broken, above = (sum(one[key] for one in chosen) for key in ("broken", "above_on_all"))
                print(f"{name} {limit:g} {rule}: {len(chosen)} of {len(own)}, broken {broken}, above on all {above}")
        values = {"examples": len(pool.hashes), "planned_with": len(planning.hashes), "candidates": candidates}
        write_json(RESULTS / f"splits-{name}.json", {**values, "splits": rows, "hardware": hardware()})


if __name__ == "__main__":
    main()
