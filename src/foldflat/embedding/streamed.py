"""From subspaces to a replacement whose numbers lie in files: rows are encoded chunk by chunk, on every rank."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn

from foldflat.axes import compute_dtype
from foldflat.cluster.groups import longest_bases
from foldflat.cluster.streaming import StreamedFit
from foldflat.cluster.subspace import coefficients, members_by_label
from foldflat.cluster.sweep import Block, chunk_rows
from foldflat.embedding.error import TableError
from foldflat.embedding.module import SubspaceEmbedding
from foldflat.errors import DataError

__all__ = ["Encoded", "encode"]


@dataclass(frozen=True)
class Encoded:
    """Hold a replacement, on rank 0 alone, and its error."""

    module: SubspaceEmbedding | None
    error: TableError


def encode(block: Block, found: StreamedFit, *, stored: torch.dtype, folder: Path) -> Encoded:
    """Project every row on its subspace; rank 0 collects the coefficients in memory-mapped files.

    Args:
        block: the rows of this rank.
        found: the subspaces; labels of these rows.
        stored: type of coefficients and bases.
        folder: where rank 0 keeps the files, which must outlive the module.

    Raises:
        DataError: a coefficient is too large for the stored type.
    """
    used, codes = _used(block, found)
    longest = longest_bases([found.bases[i] for i in used], [found.groups[i] for i in used])
    # what is stored is the rounded basis, so coefficients are taken in that one
    rounded = {group: basis.to(stored).to(compute_dtype(block.rows.dtype)) for group, basis in longest.items()}
    bases = [rounded[found.groups[i]][: len(found.bases[i])] for i in used]
    module, starts = _collector(block, found, used, codes, longest, stored, folder)
    sums = torch.zeros(4, dtype=torch.float64)
    for start, encoded in _encoded_chunks(block, codes, bases, stored, sums):
        for sender, rows in enumerate(block.team.rows_to_first(encoded)):
            if module is not None:
                _place(module, starts[sender] + start, rows.cpu(), folder)
    lost, energy, weighted_lost, weighted_energy = block.team.total(sums).tolist()
    if not math.isfinite(lost):
        raise DataError(f"rows of this table do not fit into {stored}; hint: coefficients='float32'")
    error = TableError(lost / energy if energy else 0.0, weighted_lost / weighted_energy if weighted_energy else 0.0)
    return Encoded(module, error)


def _used(block: Block, found: StreamedFit) -> tuple[list[int], Tensor]:
    """Return the subspaces that have rows, and this rank's labels in terms of those."""
    k = len(found.bases)
    sizes = block.team.total(torch.bincount(found.labels.long(), minlength=k))
    used = torch.nonzero(sizes).squeeze(1).tolist()
    renumbered = torch.zeros(k, dtype=torch.int64)
    renumbered[used] = torch.arange(len(used))
    return used, renumbered[found.labels.long()].to(torch.int16)


def _collector(
    block: Block,
    found: StreamedFit,
    used: list[int],
    codes: Tensor,
    longest: dict[int, Tensor],
    stored: torch.dtype,
    folder: Path,
) -> tuple[SubspaceEmbedding | None, list[int]]:
    """Return an empty replacement of the whole table on rank 0, and where the rows of each rank begin."""
    parts = list(block.team.rows_to_first(codes))
    if block.team.rank != 0:
        return None, []
    every = torch.cat([part.cpu() for part in parts])
    numbers = {group: i for i, group in enumerate(longest)}
    sizes = torch.bincount(every.long(), minlength=len(used)).tolist()
    ranks = [len(found.bases[i]) for i in used]
    module = SubspaceEmbedding(
        len(every),
        block.rows.shape[1],
        [0] * len(used),
        ranks,
        groups=[numbers[found.groups[i]] for i in used],
        dtype=block.rows.dtype,
        factor_dtype=stored,
    )
    module.sizes = sizes
    for i, shape in enumerate(zip(sizes, ranks, strict=True)):
        module.coefficients[i] = nn.Parameter(_mapped(_file(folder, i), shape, stored))
    with torch.no_grad():
        for group, basis in longest.items():
            module.bases[numbers[group]].copy_(basis)
    module.assignment.copy_(every)
    module.rebuild()
    return module, torch.tensor([0, *map(len, parts)]).cumsum(0).tolist()


def _file(folder: Path, i: int) -> Path:
    return folder / f"coefficients.{i}"


def _mapped(file: Path, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    size = shape[0] * shape[1]
    if not size:
        return torch.empty(shape, dtype=dtype)
    # a mapped file that outgrows the disk ends the process at some later write; this fails here, with a reason
    with file.open("wb") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size * dtype.itemsize)
    return torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(shape)


def _encoded_chunks(
    block: Block, codes: Tensor, bases: list[Tensor], stored: torch.dtype, sums: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Yield position and zero-padded coefficients (b, longest rank) of each chunk, as often on every rank."""
    width = max((len(basis) for basis in bases), default=0)
    empty = torch.empty(0, width, dtype=stored)
    chunks = block.chunks()
    # the same position on every rank, also on those that have no rows left
    for start in count(step=chunk_rows(block.rows.shape[1])):
        part, chunk = next(chunks, (None, None))
        if not int(block.team.total(torch.tensor(int(chunk is not None)))):
            return
        if part is None or chunk is None:
            yield start, empty
            continue
        rows = chunk.table
        padded = torch.zeros(len(rows), width, dtype=stored, device=rows.device)
        lost = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for basis, members in zip(bases, members_by_label(codes[part].long().to(rows.device), len(bases)), strict=True):
            kept = coefficients(rows[members], basis).to(stored)
            padded[members, : len(basis)] = kept
            lost[members] = (rows[members] - kept.to(rows.dtype) @ basis).square().sum(1).double()
        energy = rows.square().sum(1).double()
        weights = chunk.weights
        found = torch.stack([lost.sum(), energy.sum(), weights @ lost, weights @ energy])
        sums += found.cpu()
        yield start, padded


def _place(module: SubspaceEmbedding, first: int, rows: Tensor, folder: Path) -> None:
    """Write the coefficients of consecutive rows to their files, which hold rows of one subspace in that order.

    What is written through a mapping would stay in memory, so it is not.
    """
    codes = module.assignment[first : first + len(rows)].long()
    positions = module.position[first : first + len(rows)].long()
    for i, members in enumerate(members_by_label(codes, len(module.ranks))):
        if len(members) and module.ranks[i]:
            kept = rows[members, : module.ranks[i]].contiguous()
            with _file(folder, i).open("r+b") as stream:
                stream.seek(int(positions[members[0]]) * kept[0].nbytes)
                stream.write(kept.view(torch.uint8).numpy().data)
