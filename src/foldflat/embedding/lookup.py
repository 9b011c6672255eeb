"""Rows of a table stored in subspaces: gather coefficients by subspace, one small product per subspace."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["look_up"]


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
    device = fixed.device.type
    if torch.is_autocast_enabled(device):
        # rows must not depend on an autocast region around the look-up: nn.Embedding's do not
        with torch.autocast(device, enabled=False):
            return _bucketed(subspace, position, coefficients, bases, fixed)
    return _bucketed(subspace, position, coefficients, bases, fixed)


def _bucketed(
    subspace: Tensor, position: Tensor, coefficients: Sequence[Tensor], bases: Sequence[Tensor], fixed: Tensor
) -> Tensor:
    if subspace.shape[0] == 0:
        return fixed.new_empty(0, fixed.shape[1])
    codes, order = torch.sort(subspace)
    sizes = torch.bincount(codes, minlength=len(bases) + 1).tolist()
    positions = position.index_select(0, order).split(sizes)
    parts = []
    for i, (chosen, size) in enumerate(zip(positions, sizes, strict=True)):
        if size and i < len(bases):
            parts.append(_expand(coefficients[i].index_select(0, chosen), bases[i], fixed.dtype))
        elif size:
            parts.append(fixed.index_select(0, chosen))
    rows = torch.cat(parts)
    return torch.empty_like(rows).index_copy(0, order, rows)


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
    with torch.enable_grad():
        leaves = [part.detach().requires_grad_() for part in (*coefficients, *bases)]
        k = len(bases)
        rows = _bucketed(subspace, position, leaves[:k], leaves[k:], fixed)
        return list(torch.autograd.grad(rows, leaves, gradient, allow_unused=True, materialize_grads=True))


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
