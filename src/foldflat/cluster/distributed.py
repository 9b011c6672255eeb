"""One fit on several processes: each holds a block of the rows, and only sums travel."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor, distributed

from foldflat.errors import RecipeError, TeamError

__all__ = ["Alone", "ProcessGroup", "Team", "launched_team", "place_of"]


class Team(Protocol):
    """Add up numbers over the processes of one fit."""

    rank: int
    size: int

    def total(self, numbers: Tensor) -> Tensor:
        """Return the sum over all ranks, the same bits on each; `numbers` may be overwritten."""

    def from_first(self, value: Any) -> Any:
        """Return what rank 0 passes."""

    def agree(self, fingerprint: str) -> None:
        """Raise RecipeError on every rank unless all pass the same text."""

    def rows_to_first(self, block: Tensor) -> Iterator[Tensor]:
        """Yield on rank 0 the block of each rank in order, also empty ones; elsewhere nothing."""


class Alone:
    """Be the only process."""

    rank = 0
    size = 1

    def total(self, numbers: Tensor) -> Tensor:
        """Return `numbers`."""
        return numbers

    def from_first(self, value: Any) -> Any:
        """Return `value`."""
        return value

    def agree(self, fingerprint: str) -> None:
        """Agree with oneself."""

    def rows_to_first(self, block: Tensor) -> Iterator[Tensor]:
        """Yield the block."""
        yield block


class ProcessGroup:
    """Use the process group of torch.distributed that is initialised, with gloo or nccl."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        backend = distributed.get_backend()
        self._device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")

    def total(self, numbers: Tensor) -> Tensor:
        """Return the sum over all ranks.

        Raises:
            TeamError: a rank is gone, or did not answer in time.
        """
        sent = numbers.to(self._device).contiguous()
        with _peers():
            distributed.all_reduce(sent)
        return sent.to(numbers.device)

    def from_first(self, value: Any) -> Any:
        """Return what rank 0 passes.

        Raises:
            TeamError: a rank is gone, or did not answer in time.
        """
        held = [value]
        with _peers():
            distributed.broadcast_object_list(held, src=0, device=self._device)
        return held[0]

    def agree(self, fingerprint: str) -> None:
        """Compare a text over the ranks.

        Raises:
            RecipeError: they differ.
            TeamError: a rank is gone, or did not answer in time.
        """
        found: list[Any] = [None] * self.size
        with _peers():
            distributed.all_gather_object(found, fingerprint)
        others = [rank for rank, other in enumerate(found) if other != found[0]]
        if others:
            raise RecipeError(
                f"ranks {others} were given {found[others[0]]}, rank 0 was given {found[0]}; "
                "hint: start every rank with the same recipe and the same kind of table"
            )

    def rows_to_first(self, block: Tensor) -> Iterator[Tensor]:
        """Yield on rank 0 the block of each rank in order.

        Raises:
            TeamError: a rank is gone, or did not answer in time.
        """
        sizes = self.total(torch.tensor([len(block) if rank == self.rank else 0 for rank in range(self.size)])).tolist()
        if self.rank == 0:
            yield block
        for sender, size in enumerate(sizes[1:], start=1):
            if self.rank == 0 and not size:
                yield block[:0]
            if not size or self.rank not in (0, sender):
                continue
            # bytes, because not every backend sends every type
            sent = block.to(self._device).contiguous().view(torch.uint8) if self.rank == sender else None
            if sent is not None:
                with _peers():
                    distributed.send(sent, dst=0)
                continue
            received = torch.empty((size, *block.shape[1:]), dtype=block.dtype, device=self._device)
            with _peers():
                distributed.recv(received.view(torch.uint8), src=sender)
            yield received.to(block.device)


def place_of(count: int, team: Team) -> tuple[int, int]:
    """Return where what this rank holds begins among what all ranks hold, in rank order, and how much that is."""
    counts = torch.zeros(team.size, dtype=torch.int64)
    counts[team.rank] = count
    counts = team.total(counts)
    return int(counts[: team.rank].sum()), int(counts.sum())


@contextmanager
def launched_team(*, timeout_s: float = 1800.0) -> Iterator[Team]:
    """Join the processes that `torchrun` started, or be alone where none did.

    Args:
        timeout_s: seconds to wait for another rank before giving it up; those of the search on the sample, which
            rank 0 does while the others wait, must fit.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or distributed.is_initialized():
        yield ProcessGroup() if distributed.is_initialized() else Alone()
        return
    # rows of files are in the memory of the processor, and there may be fewer GPUs than processes
    distributed.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
    try:
        yield ProcessGroup()
    finally:
        distributed.destroy_process_group()


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TeamError(
            f"another rank stopped or did not answer ({str(error).splitlines()[0]}); "
            "hint: start again with the same checkpoint, on any number of ranks"
        ) from error
