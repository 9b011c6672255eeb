"""Certify a compressed classifier against its original, and keep the certificate in its folder."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from foldflat.certify import Certification, Ledger, Risk, accuracy_drop, certify, disagreement, example_hash
from foldflat.certify import examples_needed as needed_for
from foldflat.errors import CheckpointError, DataError, ModelNotFoundError, RecipeError
from foldflat.evaluate import glue_task, load_classifier, load_split, load_tokenizer, predict_logits, read_task
from foldflat.model.manifest import file_sha256, refresh_checksums
from foldflat.model.size import state_sha256
from foldflat.workflow.files import write_json, write_text

__all__ = ["CERTIFICATE", "RISKS", "certificate_of", "certify_folder"]

CERTIFICATE = "certificate.json"
RISKS = ("accuracy-drop", "disagreement")
_FORMAT = 1
_HEADING = "## Certificate"


def certify_folder(
    original: str,
    compressed: str | os.PathLike[str],
    *,
    task: str,
    data: str,
    limit: float,
    confidence: float = 0.95,
    risk: str = "accuracy-drop",
    split: str = "validation",
    ledger: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Test whether a compressed classifier's risk is below a limit; keep the certificate in its folder if it is.

    Examples that stand twice count once. If the ledger knows k earlier candidates that were tested on some of them, the
    chance of error is divided by 2^k: that pays for a candidate that was chosen knowing which of those had passed.

    Args:
        original: folder or hub name of the classifier before compression.
        compressed: folder of the one after it.
        task: one of the GLUE tasks with classes.
        data: folder or hub name of the data.
        limit: of the mean risk, such as 0.005 for half a point of accuracy.
        confidence: 1 - delta.
        risk: "accuracy-drop", paired and with labels, or "disagreement" of the answers.
        split: held-out rows, that neither model nor compression has seen.
        ledger: file; default in the user's state folder.
        progress: show bars.

    Returns:
        The certificate: `promised`, `risk`, `limit`, `confidence`, `examples`, `mean`, `bound`, `p_value`, `delta` that
        was left after `earlier_uses`, `examples_needed`, fingerprints, `words`.

    Raises:
        RecipeError: a limit, confidence or risk that there is not; the training split; a regression.
        DataError: too few examples for any promise; models of other labels or vocabularies, or the same; labels that
            are no classes; logits that are not finite.
    """
    _check(task, split, limit, confidence, risk)
    place = _place(compressed)
    tokenizer = _common_tokenizer(original, str(place))
    rows = load_split(data, task, split, tokenizer=tokenizer)
    chosen, hashes = _different(data, task, split)
    delta = 1 - confidence
    _require_enough(len(chosen), risk, limit, delta)
    models = {
        name: load_classifier(where, glue_task(task), tokenizer=tokenizer, new_head=False)
        for name, where in (("original", original), ("compressed", str(place)))
    }
    fingerprints = {name: state_sha256(model.state_dict()) for name, model in models.items()}
    if fingerprints["original"] == fingerprints["compressed"]:
        raise DataError(f"{original!r} and {str(place)!r} are the same model\nhint: nothing is to be certified")
    # before anything is measured, so that an interrupted run has spent the examples too
    earlier = Ledger(ledger).spend(fingerprints["original"], fingerprints["compressed"], hashes)
    rows = rows.select(chosen)
    logits = {
        name: predict_logits(model, rows, tokenizer=tokenizer, progress=progress) for name, model in models.items()
    }
    measured = _risk(risk, logits, np.asarray(rows["labels"][:]))
    left = delta / 2**earlier
    found = certify(["compressed"], lambda _: measured, limit, delta=left)
    certificate = {
        "format": _FORMAT,
        **_figures(found, measured),
        "confidence": confidence,
        "earlier_uses": earlier,
        "data": {"task": task, "split": split, "examples": len(chosen), "sha256": example_hash(*sorted(hashes))},
        "original": {"name": Path(original).name, "weights": fingerprints["original"]},
        "weights": _weights(place),
    }
    certificate["words"] = _words(certificate)
    if certificate["promised"]:
        _keep(place, certificate)
    return certificate


def certificate_of(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the certificate in a folder with `valid`: whether the weights are those that it was given for.

    None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    file = Path(folder) / CERTIFICATE
    if not file.is_file():
        return None
    try:
        certificate: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {**certificate, "valid": certificate["weights"] == _weights(Path(folder))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error})\nhint: delete it, and certify again") from error


def _check(task: str, split: str, limit: float, confidence: float, risk: str) -> None:
    if not glue_task(task).labels:
        raise RecipeError(f"{task} is a regression, which has no accuracy\nhint: a task with classes")
    if risk not in RISKS:
        raise RecipeError(f"unknown risk {risk!r}\nhint: {' or '.join(RISKS)}")
    if split.startswith("train"):
        raise RecipeError(f"split {split!r} was trained on, so it says nothing about other texts\nhint: validation")
    if not 0 < limit < 1:
        raise RecipeError(f"the limit is {limit}\nhint: above 0 and below 1; 0.005 is half a point")
    if not 0.5 <= confidence < 1:
        raise RecipeError(f"the confidence is {confidence}\nhint: from 0.5, below 1; 0.95 is usual")


def _place(compressed: str | os.PathLike[str]) -> Path:
    place = Path(compressed).expanduser()
    if not place.is_dir():
        raise ModelNotFoundError(f"{place} is no folder\nhint: the certificate is kept in the folder of the model")
    return place


def _common_tokenizer(original: str, compressed: str) -> Any:
    tokenizers = [load_tokenizer(name) for name in (original, compressed)]
    if tokenizers[0].get_vocab() != tokenizers[1].get_vocab():
        raise DataError(
            f"{original!r} and {compressed!r} have different vocabularies, so one was not made of the other\n"
            "hint: the model before compression, and the one after it"
        )
    return tokenizers[0]


def _different(data: str, task: str, split: str) -> tuple[list[int], list[str]]:
    """Return the rows whose texts and label are not those of an earlier row, and their hashes."""
    rows, labels = read_task(data, task, split)
    columns = [rows[column][:] for column in glue_task(task).text_columns]
    first: dict[str, int] = {}
    for i, texts in enumerate(zip(*columns, strict=True)):
        first.setdefault(example_hash(task, *texts, str(labels[i])), i)
    return list(first.values()), list(first)


def _require_enough(n: int, risk: str, limit: float, delta: float) -> None:
    """Raise DataError where not even models that always agree could be promised anything."""
    perfect = _perfect(risk, n)
    if perfect.p_value(limit, delta) > delta:
        raise DataError(
            f"{n} examples are too few to promise {limit:g} at {1 - delta:g} confidence: if nothing changed at all, "
            f"{needed_for(perfect, limit, delta)} would be needed\nhint: more examples, or a promise of less"
        )


def _perfect(risk: str, n: int) -> Risk:
    same = np.zeros((n, 2))
    return _risk(risk, {"original": same, "compressed": same}, np.zeros(n, dtype=np.int64))


def _risk(name: str, logits: dict[str, Any], labels: Any) -> Risk:
    if name == "disagreement":
        return disagreement(logits["original"], logits["compressed"])
    return accuracy_drop(logits["original"], logits["compressed"], labels)


def _figures(found: Certification, risk: Risk) -> dict[str, Any]:
    (tested,) = found.tested
    return {
        "promised": tested.promised,
        "risk": risk.name,
        "limit": found.limit,
        "examples": risk.n,
        "mean": risk.mean,
        "bound": risk.upper_bound(found.delta),
        "p_value": tested.p_value,
        "delta": found.delta,
        "examples_needed": None if tested.promised else needed_for(risk, found.limit, found.delta),
    }


def _weights(folder: Path) -> dict[str, str]:
    """Return the checksums of the weights files of a folder."""
    return {file.name: file_sha256(file) for file in sorted(folder.glob("*.safetensors"))}


def _words(certificate: dict[str, Any]) -> str:
    """Return the certificate as a paragraph."""
    measure, n = certificate["risk"], certificate["examples"]
    figures = f"{certificate['mean']:.2%} on {n:,} examples, at most {certificate['bound']:.2%} with "
    about = certificate["data"]
    head = (
        f"The {measure} against {certificate['original']['name']} on {about['task']} ({about['split']}) is {figures}"
        f"{100 * certificate['confidence']:.4g} % confidence."
    )
    if not certificate["promised"]:
        more = certificate["examples_needed"]
        way = "the mean itself is not below it" if more is None else f"about {more:,} examples like these would do"
        return f"{head} That is not below the limit of {certificate['limit']:.2%}: {way}."
    reused = certificate["earlier_uses"]
    price = f" The examples had been used {reused} times before, which the bound pays for." if reused else ""
    return (
        f"{head} So it is below {certificate['limit']:.2%}, a statement that is wrong for at most "
        f"{100 * (1 - certificate['confidence']):.4g} % of samples of independent examples.{price} It does not cover "
        "texts of another kind, nor the model after it is trained or changed further."
    )


def _keep(place: Path, certificate: dict[str, Any]) -> None:
    """Write the certificate into a folder, a paragraph into its card, and their checksums into the manifest."""
    card = place / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {place.name}\n"
    kept = text.partition(f"\n{_HEADING}\n")[0].rstrip()
    write_text(card, f"{kept}\n\n{_HEADING}\n\n{certificate['words']}\n")
    write_json(place / CERTIFICATE, certificate)
    refresh_checksums(place, (CERTIFICATE, card.name))
