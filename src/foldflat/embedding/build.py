"""Modules from their layouts: the one table of replacement classes."""

from typing import Any

import torch
from torch import nn

from foldflat.embedding.base import CompressedEmbedding, CompressedHead
from foldflat.embedding.baselines import QuantizedEmbedding, QuantizedHead
from foldflat.embedding.mixed import MixedEmbedding, MixedHead
from foldflat.embedding.module import SubspaceEmbedding, SubspaceHead
from foldflat.embedding.quantized import QuantizedSubspaceEmbedding, QuantizedSubspaceHead
from foldflat.errors import FormatVersionError

__all__ = ["embedding_from_spec", "head_of"]

_CLASSES: dict[str, tuple[type[Any], type[CompressedHead]]] = {
    "SubspaceEmbedding": (SubspaceEmbedding, SubspaceHead),
    "QuantizedEmbedding": (QuantizedEmbedding, QuantizedHead),
    "QuantizedSubspaceEmbedding": (QuantizedSubspaceEmbedding, QuantizedSubspaceHead),
    "MixedEmbedding": (MixedEmbedding, MixedHead),
}


def embedding_from_spec(
    spec: dict[str, Any], *, dtype: torch.dtype, device: torch.device | str | None = None
) -> CompressedEmbedding:
    """Return an empty replacement of the layout that `spec` describes.

    Raises:
        FormatVersionError: the layout's class is unknown to this version.
    """
    if spec.get("class") not in _CLASSES:
        raise FormatVersionError(
            f"the layout is a {spec.get('class')!r}; this foldflat knows {', '.join(_CLASSES)}; hint: upgrade foldflat"
        )
    module: CompressedEmbedding = _CLASSES[spec["class"]][0].from_spec(spec, dtype=dtype, device=device)
    return module


def head_of(embedding: CompressedEmbedding, bias: nn.Parameter | None = None) -> CompressedHead:
    """Return the output layer tied to `embedding`, with the head's own bias."""
    return _CLASSES[type(embedding).__name__][1](embedding, bias)
