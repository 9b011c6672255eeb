"""Rows of a table stored in subspaces: gather coefficients by subspace, one small product per subspace."""

import contextlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from foldflat.axes import blocks

__all__ = ["buckets", "columns_of", "in_order", "inverse", "look_up", "no_autocast", "positions_within"]

_BLOCK_ELEMENTS = 1 << 16


def positions_within(assignment: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return (n,) int32 the place of every row among those of its subspace.

    Args:
        assignment: (n,) integers; the number of subspaces stands for rows that are in none.
        sizes: rows of each subspace.
    """
    codes = assignment.to(torch.int64)
    order = torch.argsort(codes, stable=True)
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=codes.device)
    return (position - _starts(sizes, codes.device)[codes]).to(torch.int32)


def columns_of(assignment: Tensor, position: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return (n,) where each row stands when the rows of one subspace follow those of another."""
    return _starts(sizes, assignment.device)[assignment.to(torch.int64)] + position


def in_order(parts: Iterable[Tensor], columns: Tensor) -> Tensor:
    """Return (t, n), of which column i is the one numbered columns[i] of parts (t, n_i) side by side.

    Args:
        parts: taken one after the other; without gradients none is kept.
        columns: (n,).
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.cat(list(parts), -1).index_select(-1, columns)
    # column by column in memory, so that those that are gathered are read in one piece
    gathered, end = columns.new_empty(0, dtype=torch.float32), 0
    for part in parts:
        if not end:
            gathered = part.new_empty(len(columns), len(part))
        gathered[end : end + part.shape[1]] = part.T
        end += part.shape[1]
    found = gathered.new_empty(gathered.shape[::-1])
    for block in blocks(len(columns), gathered.shape[1], elements=_BLOCK_ELEMENTS):
        found[:, block] = gathered.index_select(0, columns[block]).T
    return found


def inverse(order: Tensor) -> Tensor:
    """Return the permutation that undoes `order` (n,)."""
    return torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))


def _starts(sizes: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *sizes], device=device).cumsum(0)


def look_up(
    subspace: Tensor, position: Tensor, coefficients: Sequence[Tensor], bases: Sequence[Tensor], fixed: Tensor
) -> Tensor:
    """Return (t, d) rows, in the type of `fixed`.

    Args:
        subspace: (t,) integers; value k stands for a row of `fixed`.
        position: (t,) integers, the row's place within its subspace.
        coefficients: k matrices (n_i, rank_i).
        bases: k matrices (rank_i, d).
        fixed: (m, d) rows that are stored as they are.
    """
    if torch.compiler.is_compiling():
        rows: Tensor = torch.ops.foldflat.look_up(subspace, position, list(coefficients), list(bases), fixed)
        return rows
    return _bucketed(subspace, position, coefficients, bases, fixed)


def _bucketed(
    subspace: Tensor, position: Tensor, coefficients: Sequence[Tensor], bases: Sequence[Tensor], fixed: Tensor
) -> Tensor:
    k = len(bases)
    # a row that is asked for twice is multiplied once
    distinct, places = torch.unique(position.to(torch.int64) * (k + 1) + subspace, return_inverse=True)
    order, positions = buckets(distinct % (k + 1), distinct // (k + 1), k)
    parts = []
    with no_autocast(fixed.device.type):
        for i, chosen in enumerate(positions):
            # the first is looked up even when no id asks for it: gradients are then zero, not absent
            if i and not len(chosen):
                continue
            if i < k:
                parts.append(_expand(coefficients[i].index_select(0, chosen), bases[i], fixed.dtype))
            else:
                parts.append(fixed.index_select(0, chosen))
    return torch.cat(parts).index_select(0, inverse(order).index_select(0, places))


def buckets(subspace: Tensor, position: Tensor, k: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the order that sorts ids by subspace, and the k + 1 runs of positions in that order."""
    codes, order = torch.sort(subspace)
    sizes = torch.bincount(codes, minlength=k + 1).tolist()
    return order, position.index_select(0, order).split(sizes)


def no_autocast(device: str) -> contextlib.AbstractContextManager[object]:
    """Return a context in which rows do not depend on an autocast region around it: nn.Embedding's do not."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else contextlib.nullcontext()


def _expand(coefficients: Tensor, basis: Tensor, dtype: torch.dtype) -> Tensor:
    if coefficients.dtype == basis.dtype == dtype:
        return coefficients @ basis
    return (coefficients.float() @ basis.float()).to(dtype)


@torch.library.custom_op("foldflat::look_up", mutates_args=())
def _look_up_op(
    subspace: Tensor, position: Tensor, coefficients: list[Tensor], bases: list[Tensor], fixed: Tensor
) -> Tensor:
    return _bucketed(subspace, position, coefficients, bases, fixed)


@_look_up_op.register_fake
def _(subspace: Tensor, position: Tensor, coefficients: list[Tensor], bases: list[Tensor], fixed: Tensor) -> Tensor:
    return fixed.new_empty(subspace.shape[0], fixed.shape[1])


@torch.library.custom_op("foldflat::look_up_backward", mutates_args=())
def _look_up_backward_op(
    gradient: Tensor,
    subspace: Tensor,
    position: Tensor,
    coefficients: list[Tensor],
    bases: list[Tensor],
    fixed: Tensor,
) -> list[Tensor]:
    by_coefficients = [torch.zeros_like(part) for part in coefficients]
    by_bases = [torch.zeros_like(part) for part in bases]
    order, positions = buckets(subspace, position, len(bases))
    arriving = gradient.index_select(0, order).split([len(chosen) for chosen in positions])
    with no_autocast(gradient.device.type):
        for i, basis in enumerate(bases):
            if not len(positions[i]):
                continue
            chosen = coefficients[i].index_select(0, positions[i])
            dtype = torch.promote_types(torch.promote_types(chosen.dtype, basis.dtype), gradient.dtype)
            received = arriving[i].to(dtype)
            by_bases[i] += (chosen.to(dtype).T @ received).to(basis.dtype)
            by_coefficients[i].index_add_(0, positions[i], (received @ basis.to(dtype).T).to(chosen.dtype))
    return by_coefficients + by_bases


@_look_up_backward_op.register_fake
def _(
    gradient: Tensor,
    subspace: Tensor,
    position: Tensor,
    coefficients: list[Tensor],
    bases: list[Tensor],
    fixed: Tensor,
) -> list[Tensor]:
    return [torch.empty_like(part) for part in (*coefficients, *bases)]


def _save_inputs(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    subspace, position, coefficients, bases, fixed = inputs
    ctx.k = len(bases)
    ctx.save_for_backward(subspace, position, fixed, *coefficients, *bases)


def _backward(ctx, gradient):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    subspace, position, fixed, *parts = ctx.saved_tensors
    k = ctx.k
    gradients = torch.ops.foldflat.look_up_backward(gradient, subspace, position, parts[:k], parts[k:], fixed)
    return None, None, gradients[:k], gradients[k:], None


_look_up_op.register_autograd(_backward, setup_context=_save_inputs)
