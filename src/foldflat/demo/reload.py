"""Is a saved folder the same model? Asked of a new process in another working directory."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import foldflat
from foldflat.demo.classifier import encode
from foldflat.demo.corpus import Passage
from foldflat.errors import CheckpointError
from foldflat.evaluate import predict_logits
from foldflat.evaluate.isolation import quiet_transformers
from foldflat.evaluate.optional import require

__all__ = ["check_reload", "write_logits"]

_SCRIPT = "import sys; from foldflat.demo.reload import write_logits; write_logits(*sys.argv[1:])"


def check_reload(model: Any, tokenizer: Any, folder: Path, passages: list[Passage]) -> dict[str, Any]:
    """Compare the logits of `model` with those of `folder` opened in a new process; return what was compared.

    The new process reads model and tokenizer by transformers' Auto classes after `import foldflat`, with as
    many threads as this one.

    Raises:
        CheckpointError: a logit differs in any bit, or the process failed.
    """
    here = predict_logits(model, encode(passages, tokenizer), tokenizer=tokenizer)
    with tempfile.TemporaryDirectory(prefix="foldflat-demo-") as scratch:
        there = _logits_elsewhere(folder.absolute(), passages, Path(scratch))
    if here.shape != there.shape or here.tobytes() != there.tobytes():
        raise CheckpointError(
            f"{folder}: the logits {there.shape} of the reloaded model differ from those {here.shape} of the saved "
            f"one, by up to {_largest_difference(here, there):g}"
        )
    return {"logits_equal": True, "passages": len(passages), "logits": int(here.size), "new_process": True}


def write_logits(folder: str, passages: str, logits: str, threads: str) -> None:
    """Write the logits that the model in `folder` gives for the passages of a JSON file to a .npy file."""
    torch.set_num_threads(int(threads))
    transformers = require("transformers", "hf")
    texts = json.loads(Path(passages).read_text(encoding="utf-8"))
    with quiet_transformers():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    dataset = encode([Passage(text, 0, 0, 0) for text in texts], tokenizer)
    np.save(logits, predict_logits(model, dataset, tokenizer=tokenizer), allow_pickle=False)


def _logits_elsewhere(folder: Path, passages: list[Passage], scratch: Path) -> Any:
    source, target = scratch / "passages.json", scratch / "logits.npy"
    source.write_text(json.dumps([passage.text for passage in passages]), encoding="utf-8")
    library = str(Path(foldflat.__file__).absolute().parent.parent)
    paths = os.pathsep.join(path for path in (library, os.environ.get("PYTHONPATH", "")) if path)
    arguments = [folder, source, target, torch.get_num_threads()]
    finished = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *map(str, arguments)],
        cwd=scratch,
        env=os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise CheckpointError(
            f"{folder} cannot be opened in a new process, which ended with {finished.returncode}:\n"
            f"{finished.stderr.strip()[-2000:]}"
        )
    return np.load(target, allow_pickle=False)


def _largest_difference(here: Any, there: Any) -> float:
    return float(np.abs(here - there).max()) if here.shape == there.shape else float("nan")
