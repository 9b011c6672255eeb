"""What a compressed table did to a model, part by part, band by band, and which tokens went together."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from foldflat.embedding.error import row_losses, share_lost

__all__ = ["table_details"]

_BANDS = ((0, 0), (1, 9), (10, 99), (100, 999), (1000, None))
"""Limits of the counts of tokens, both included."""

_SUBSPACES = 8
_TOKENS = 12


def table_details(
    before: nn.Module, after: nn.Module, name: str, tokens: list[str], counts: Tensor
) -> dict[str, list[dict[str, Any]] | dict[str, int]]:
    """Return what became of a model whose table `name` was compressed, as JSON values.

    Args:
        before, after: the model without and with the compressed table.
        name: dotted name of the table in both.
        tokens: n texts of the table's rows.
        counts: (n,) how often each occurs in the training texts.

    Returns:
        `parts`: bytes of each part of the model, before and after, which sum to the model's;
        `stored`: bytes of what the compressed table consists of;
        `bands`: by frequency, the tokens, their share of all occurrences, the energy that they lost, and the mean
        cosine of a row with what it became; bands without tokens are left out;
        `subspaces`: of up to eight, those of the largest share of occurrences first, rank, rows, share and the most
        frequent tokens; empty for a table that is not in several subspaces.
    """
    table: Any = before.get_submodule(name)
    compressed = after.get_submodule(name)
    sizes = [_sizes(model, name) for model in (before, after)]
    parts = [{"part": part, "before": size, "after": sizes[1].get(part, 0)} for part, size in sizes[0].items()]
    stored: dict[str, int] = {}
    for key, tensor in compressed.state_dict().items():
        kind = key.split(".")[0]
        stored[kind] = stored.get(kind, 0) + tensor.numel() * tensor.element_size()
    return {
        "parts": parts,
        "stored": {kind: size for kind, size in stored.items() if size},
        "bands": list(_bands(table.weight.detach(), compressed, counts)),
        "subspaces": list(_subspaces(compressed, tokens, counts)),
    }


def _sizes(model: nn.Module, table: str) -> dict[str, int]:
    """Return the bytes of the table, and of the other parts by the first two names of their tensors."""
    sizes: dict[str, int] = {}
    seen = set()
    for key, tensor in model.state_dict().items():
        place = tensor.data_ptr(), tensor.shape
        if place in seen:  # a tied table
            continue
        seen.add(place)
        part = table if key.startswith(f"{table}.") else ".".join(key.split(".")[:-1][:2])
        sizes[part] = sizes.get(part, 0) + tensor.numel() * tensor.element_size()
    return sizes


def _bands(table: Tensor, compressed: Any, counts: Tensor) -> Iterator[dict[str, Any]]:
    lost, energy = row_losses(table, compressed)
    cosines = torch.cosine_similarity(table.float(), compressed.to_dense().to(table.device).float()).double().cpu()
    occurrences = float(counts.sum())
    for low, high in _BANDS:
        inside = (counts >= low) & (counts <= (counts.max() if high is None else high))
        if bool(inside.any()):
            yield {
                "low": low,
                "high": high,
                "tokens": int(inside.sum()),
                "share": float(counts[inside].sum()) / occurrences,
                "energy_lost": share_lost(lost[inside].sum(), energy[inside].sum()),
                "cosine": float(cosines[inside].mean()),
            }


def _subspaces(compressed: Any, tokens: list[str], counts: Tensor) -> Iterator[dict[str, Any]]:
    ranks = getattr(compressed, "ranks", [])
    if len(ranks) < 2:
        return
    assignment = compressed.assignment.long().cpu()
    shares = torch.bincount(assignment, weights=counts.double(), minlength=len(ranks))[: len(ranks)] / counts.sum()
    for i in torch.argsort(shares, descending=True, stable=True)[:_SUBSPACES].tolist():
        rows = torch.nonzero(assignment == i).squeeze(1)
        first = rows[torch.argsort(counts[rows], descending=True, stable=True)[:_TOKENS]]
        yield {
            "rank": int(ranks[i]),
            "rows": len(rows),
            "share": float(shares[i]),
            "tokens": [tokens[row] for row in first.tolist()],
        }
