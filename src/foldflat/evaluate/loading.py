"""Load a classifier for a task, and its tokenizer, from a folder or the hub."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import SafetensorError

from foldflat.errors import CheckpointError, DataError, FoldflatError, ModelNotFoundError
from foldflat.evaluate.glue import GlueTask
from foldflat.evaluate.isolation import quiet_transformers, random_state_restored
from foldflat.evaluate.names import local_folder
from foldflat.evaluate.optional import require

__all__ = ["load_classifier", "load_tokenizer", "model_config", "require_labels"]


def load_tokenizer(name: str | os.PathLike[str]) -> Any:
    """Load the tokenizer of a model folder or hub name; DataError where it has none.

    A tokenizer without a padding token, as GPT-2's, pads with its end-of-text token; padding is masked.
    """
    source = _source(name)
    try:
        tokenizer = require("transformers", "hf").AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _no_tokenizer(source) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise _no_tokenizer(source)
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_classifier(
    name: str | os.PathLike[str], task: GlueTask, *, tokenizer: Any, new_head: bool, seed: int = 0
) -> Any:
    """Load a sequence classifier for `task` from a folder or hub name, onto the GPU where there is one.

    `new_head`: a model without a classification head gets one whose weights depend on `seed` alone, labelled
    as the task is, and the weights are loaded in float32 to be trained; otherwise it is a DataError.

    Raises ModelNotFoundError; CheckpointError for a folder that cannot be read or lacks other weights than
    the head's; DataError for a head of another number of labels.
    """
    source = _source(name)
    config = model_config(source)
    trained = any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ())
    if trained:
        require_labels(config, task, source)
    elif not new_head:
        raise DataError(
            f"{source!r} is {', '.join(config.architectures or ['a model'])}, without a trained head\n"
            f"hint: fine-tune it on {task.name} first"
        )
    else:
        _label(config, task)
    config.problem_type = task.problem_type
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    model = _loaded(source, config, new_head=not trained, dtype=_dtype(config, new_head), seed=seed)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def require_labels(config: Any, task: GlueTask, what: str) -> None:
    """Raise DataError where the model of `config` does not predict as many labels as `task` has."""
    if config.num_labels != task.num_labels:
        raise DataError(
            f"{what} predicts {config.num_labels} labels, {task.name} has {task.num_labels}\n"
            f"hint: a model fine-tuned on {task.name}, or one without a classification head to fine-tune"
        )


def _source(name: str | os.PathLike[str]) -> str:
    return str(local_folder(name) or name)


def _no_tokenizer(source: str) -> DataError:
    return DataError(
        f"{source!r} has no tokenizer that transformers can load\nhint: save one: tokenizer.save_pretrained"
    )


def model_config(name: str | os.PathLike[str]) -> Any:
    """Load the configuration of a model folder or hub name; ModelNotFoundError where there is none."""
    source = _source(name)
    try:
        return require("transformers", "hf").AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"no transformers model in {source!r}: {error}\nhint: a folder with config.json, or a name on the hub"
        ) from error


def _label(config: Any, task: GlueTask) -> None:
    names = task.labels or ("similarity",)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}


def _dtype(config: Any, new_head: bool) -> Any:
    """Choose float32 to train in; as stored to score, and where a compressed folder decides it itself."""
    compressed = getattr(config, "quantization_config", None) is not None
    return torch.float32 if new_head and not compressed else "auto"


def _loaded(source: str, config: Any, *, new_head: bool, dtype: Any, seed: int) -> Any:
    auto = require("transformers", "hf").AutoModelForSequenceClassification
    with random_state_restored(), quiet_transformers(), _held_reports() as reports:
        torch.manual_seed(seed)
        try:
            model, found = auto.from_pretrained(source, config=config, dtype=dtype, output_loading_info=True)
        except FoldflatError:
            raise
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            details = "".join(f"\n{report.getMessage()}" for report in reports)
            raise CheckpointError(f"{source!r} cannot be loaded as a classifier: {error}{details}") from error
    missing = [key for key in found["missing_keys"] if not (new_head and _in_head(key, model))]
    if missing:
        raise CheckpointError(
            f"{source!r} lacks {len(missing)} weights of {type(model).__name__}, "
            f"among them {', '.join(sorted(missing)[:5])}; they would be random\n"
            "hint: the folder is damaged or of another architecture"
        )
    if any(not _in_head(key, model) for key in found["unexpected_keys"]):
        for report in reports:
            logging.getLogger(report.name).handle(report)
    return model


def _in_head(key: str, model: Any) -> bool:
    """Say whether a weight lies outside the encoder, or in the pooler that only classifiers use."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


@contextlib.contextmanager
def _held_reports() -> Iterator[list[logging.LogRecord]]:
    """Hold back transformers' reports of missing and unexpected weights, for the caller to judge."""
    held: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        if "LOAD REPORT" not in record.getMessage():
            return True
        held.append(record)
        return False

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(keep)
    try:
        yield held
    finally:
        logger.removeFilter(keep)
