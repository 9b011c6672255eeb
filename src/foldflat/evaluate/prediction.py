"""Run a sequence classifier over a tokenised data set."""

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foldflat.errors import DataError, RecipeError
from foldflat.evaluate.optional import require
from foldflat.randomness import torch_generator

__all__ = ["padding_collator", "predict_logits", "require_fitting"]


def predict_logits(
    model: nn.Module, dataset: Any, *, tokenizer: Any, batch_size: int = 64, progress: bool = False
) -> NDArray[np.float32]:
    """Return the logits (n, labels) of every row of a tokenised data set, in its order, as float32.

    Rows are batched by length, longest first, so that little is padded and memory peaks at once. The model
    computes in eval mode on its own device and is left in the mode it had; `progress` shows a bar on stderr.

    Raises DataError for no rows, texts beyond the model's positions, or a tokenizer without a padding token.
    """
    if batch_size < 1:
        raise RecipeError(f"`batch_size` is {batch_size}\nhint: at least 1")
    collator = padding_collator(tokenizer)
    lengths = require_fitting(model, dataset)
    order = np.argsort(-lengths, kind="stable")
    batches = torch.utils.data.DataLoader(
        dataset.select_columns(_inputs(model, dataset)).select(order),
        batch_size=batch_size,
        collate_fn=collator,
        generator=torch_generator(0),  # an iterator draws a seed, from the global generator by default
    )
    logits = _logits(model, _with_bar(batches, progress))
    unsorted = np.empty_like(logits)
    unsorted[order] = logits
    return unsorted


def padding_collator(tokenizer: Any) -> Any:
    """Return the collator that pads a batch to its longest text; DataError without a padding token."""
    if tokenizer.pad_token_id is None:
        raise DataError(
            "the tokenizer has no padding token, so texts of different length make no batch\n"
            "hint: tokenizer.pad_token = tokenizer.eos_token, and the same id in model.config.pad_token_id"
        )
    return require("transformers", "hf").DataCollatorWithPadding(tokenizer)


def require_fitting(model: nn.Module, dataset: Any) -> NDArray[np.int64]:
    """Return the token count of each row (n,); DataError for no rows or more tokens than positions."""
    if len(dataset) == 0:
        raise DataError("the data set has no rows")
    lengths = np.fromiter(map(len, dataset["input_ids"][:]), dtype=np.int64, count=len(dataset))
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and lengths.max() > limit:
        raise DataError(
            f"row {lengths.argmax()} has {lengths.max()} tokens, the model has {limit} positions\n"
            f"hint: tokenise with max_length={limit} or less"
        )
    return lengths


def _inputs(model: nn.Module, dataset: Any) -> list[str]:
    """List the columns that `forward` takes, without the labels: a loss is not wanted."""
    accepted = inspect.signature(model.forward).parameters
    return [name for name in dataset.column_names if name in accepted and name != "labels"]


def _with_bar(batches: Any, progress: bool) -> Any:
    return require("tqdm.auto", "hf").tqdm(batches, desc="predicting", disable=not progress, dynamic_ncols=True)


@torch.no_grad()
def _logits(model: nn.Module, batches: Any) -> NDArray[np.float32]:
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        rows = [model(**batch.to(device)).logits.float().cpu().numpy() for batch in batches]
    finally:
        model.train(training)
    return np.concatenate(rows)
