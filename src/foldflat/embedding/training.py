"""Fine-tune a network with its tables: give the quantised ones numbers to train, and store them again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foldflat.embedding.packed import PackedEmbedding
from foldflat.errors import PlanMismatchError

__all__ = ["TRAINABLE", "load_masters", "masters_of", "packed_tables", "training_tables"]

TRAINABLE = ("none", "bases", "all")
"""What of a quantised table is trained: nothing; bases and scales; integer coefficients as well."""


def packed_tables(model: nn.Module) -> dict[str, PackedEmbedding]:
    """Return the tables of a model that hold packed numbers, each under its first name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedEmbedding)}


@contextmanager
def training_tables(model: nn.Module, what: str = "bases") -> Iterator[dict[str, tuple[str, ...]]]:
    """Unfreeze the quantised tables of a model for a block of training, and freeze them after it.

    Gives what is trained, by table: `("bases", "scales")`, `("bases",)` or `("bases", "coefficients")`. Tables that are
    in training form already are left so. Where the block raises, tables are what they were before it.

    Args:
        model: any; without such tables nothing happens.
        what: one of `TRAINABLE`. With "all" coefficients that are integers are trained; trellis codes never are.
    """
    found = {} if what == "none" else packed_tables(model)
    frozen = {name: table for name, table in found.items() if table.masters is None}
    # a state dict in between stores what was trained so far
    before = {name: {key: own.clone() for key, own in table.state_dict().items()} for name, table in frozen.items()}
    for table in frozen.values():
        table.unfreeze(coefficients=what == "all" and table.has_integers)
    try:
        yield {name: table.trained for name, table in packed_tables(model).items() if table.trained}
        for table in frozen.values():
            if table.masters is not None:
                table.masters.check_finite()
    except BaseException:
        for name, table in frozen.items():
            table.discard().load_state_dict(before[name])
        raise
    for table in frozen.values():
        table.freeze()


def masters_of(model: nn.Module) -> dict[str, Tensor]:
    """Return what the tables in training form train, by name: more exact than a state dict, which has it rounded."""
    return {
        f"{name}.{key}" if name else key: tensor
        for name, table in packed_tables(model).items()
        if table.masters is not None
        for key, tensor in table.masters.tensors().items()
    }


@torch.no_grad()
def load_masters(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Set what `masters_of` gave.

    Raises:
        PlanMismatchError: other tables are in training form, or with other numbers to train.
    """
    own = masters_of(model)
    different = [name for name in {**own, **tensors} if _shape(own, name) != _shape(tensors, name)]
    if different:
        raise PlanMismatchError(
            f"`{different[0]}` of a table is trained {'now' if different[0] in own else 'there'}, and not or otherwise "
            f"{'there' if different[0] in own else 'now'}\n"
            "hint: unfreeze the tables as the run did that wrote the checkpoint, before the trainer is made"
        )
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def _shape(tensors: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
