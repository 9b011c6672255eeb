"""Embeddings whose coefficients are trellis-coded, with as many bits for each direction as it is worth."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate, chain, groupby
from typing import Any, Self

import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.embedding.base import CompressedHead
from foldflat.embedding.bases import BASIS_STEPS, stored_basis
from foldflat.embedding.lookup import columns_of, in_order, inverse, no_autocast
from foldflat.embedding.masters import MasterWeights, straight_through
from foldflat.embedding.packed import PackedEmbedding
from foldflat.embedding.reading import RowReader
from foldflat.embedding.trellis import WINDOWS, Schedule, decode

__all__ = ["ClassLayout", "MixedEmbedding", "MixedHead"]

_BLOCK_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class ClassLayout:
    """Say how the rows of one class are stored.

    Attributes:
        size: number of rows.
        basis: which basis their coefficients are taken in.
        pairs: bits of each pair of directions, see `foldflat.embedding.trellis.Schedule`.
    """

    size: int
    basis: int
    pairs: tuple[int, ...]

    @cached_property
    def schedule(self) -> Schedule:
        """Return the windows of a row."""
        return Schedule(self.pairs)


class MixedEmbedding(PackedEmbedding):
    """Store row a of class c as a trellis code of its coefficients in a basis V, and return their sum with V.

    Classes differ in their basis, and in the bits that their rows' weight is worth. `unfreeze` makes bases and scales
    trainable; codes are fixed, because finding those of new coefficients takes microseconds a number. Rounding to
    float16 passes gradients on as they come.

    Source: transform coding with reverse water-filling (Cover and Thomas, Elements of Information Theory, section
    10.3.3), in one of several bases as in Maalouf et al., ICLR 2021; the bits by class are ours.

    Attributes:
        layouts: one for each class.
        codes: (bytes,) uint8, the codes of the first class row by row, then of the second ..
        scales: float16, of each coded direction of the first class, then of the second ..
        bases: float16 or int8 (ranks together, d), one basis after the other. Of int8 the largest of a vector is 127:
            how long the vector is, is in the scales.
        window_values: (4096,) float16.
    """

    method = "mixed"
    _codes = ("scales", "bases", "window_values")
    codes: Tensor
    scales: Tensor
    bases: Tensor
    window_values: Tensor

    def __init__(
        self,
        n: int,
        d: int,
        layouts: Sequence[ClassLayout],
        ranks: Sequence[int],
        *,
        basis_dtype: torch.dtype = torch.float16,
        padding_idx: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        """Make an empty layer of a given layout.

        Args:
            n, d: shape of the table.
            layouts: of the classes.
            ranks: directions of each basis.
            basis_dtype: float16 or int8.
            padding_idx: row to keep exactly.
            dtype: type of the returned rows.
        """
        parts = {
            "codes": _ends([layout.size * layout.schedule.n_bytes for layout in layouts]),
            "scales": _ends([len(layout.schedule.coded) for layout in layouts]),
            "bases": _ends(ranks),
        }
        stored = {
            "codes": ((parts["codes"][-1],), torch.uint8),
            "scales": ((parts["scales"][-1],), torch.float16),
            "bases": ((parts["bases"][-1], d), basis_dtype),
            "window_values": ((WINDOWS,), torch.float16),
        }
        sizes = [layout.size for layout in layouts]
        super().__init__(n, d, sizes, stored, padding_idx=padding_idx, dtype=dtype, device=device)
        self.layouts, self.ranks, self._parts = list(layouts), list(ranks), parts
        self._reader = RowReader([layout.schedule for layout in layouts], sizes)
        of_class = [(self._reader.bundles[i], layout.basis) for i, layout in enumerate(layouts)]
        self._runs = sorted(set(of_class))
        self._run_of_class = [*map(self._runs.index, of_class), len(self._runs)]

    def rows(self, ids: Tensor) -> Tensor:
        """Return (t, d): the rows at ids (t,), each decoded once however often it is asked for."""
        distinct, places = torch.unique(ids, return_inverse=True)
        classes = self.assignment.index_select(0, distinct)
        runs = torch.tensor(self._run_of_class, device=ids.device).index_select(0, classes.to(torch.int32))
        order = torch.argsort(runs)
        counts = torch.bincount(runs, minlength=len(self._runs) + 1).tolist()
        with no_autocast(ids.device.type):
            found = self._in_runs(distinct.index_select(0, order), counts)
        return found.index_select(0, inverse(order).index_select(0, places))

    def _in_runs(self, ids: Tensor, counts: Sequence[int]) -> Tensor:
        """Return rows (t, d) of ids that are sorted by run, `counts` of each, computed in float32."""
        classes = self.assignment.index_select(0, ids).to(torch.int32)
        positions = self.position.index_select(0, ids)
        needs_gradients = self._is_training()
        found = torch.empty(len(ids), self.embedding_dim, device=ids.device)
        ends = torch.tensor([0, *counts]).cumsum(0).tolist()
        bases, scales, parts = self._value("bases"), self._value("scales"), []
        for bundle, group in groupby(range(len(self._runs)), lambda run: self._runs[run][0]):
            runs = list(group)
            first, last = ends[runs[0]], ends[runs[-1] + 1]
            if first == last:
                continue
            coefficients = self._reader.read(
                bundle, classes[first:last], positions[first:last], self.codes, scales, self.window_values
            )
            for run in runs:
                own, others = slice(ends[run], ends[run + 1]), slice(ends[run] - first, ends[run + 1] - first)
                if not counts[run]:
                    continue
                basis = self.basis(self._runs[run][1], bases)[: coefficients.shape[1]]
                # the widest class of a bundle may be of a basis with more directions
                if needs_gradients:
                    parts.append(coefficients[others, : len(basis)] @ basis)
                else:
                    torch.mm(coefficients[others, : len(basis)], basis, out=found[own])
        if needs_gradients:
            found = torch.cat([*parts, found[ends[-2] :]])
        rows = found.to(self.anchor.dtype)
        rows[ends[-2] :] = self.fixed.index_select(0, positions[ends[-2] :])
        return rows

    def basis(self, i: int, bases: Tensor | None = None) -> Tensor:
        """Return basis i, (rank, d) in float32, of `bases` where they are at hand."""
        own = self._of_class("bases", i, self._value("bases") if bases is None else bases)
        return self._in_units(own)

    def _in_units(self, stored: Tensor) -> Tensor:
        return stored.float() if stored.is_floating_point() else stored.float() / BASIS_STEPS

    def read(self, i: int, positions: Tensor | slice) -> Tensor:
        """Return coefficients (b, coded) of rows of class i, in units of their scales."""
        codes, schedule = self._codes_of(i)[positions], self.layouts[i].schedule
        if not schedule.n_bytes:
            return self.window_values.new_empty(len(codes), 0, dtype=torch.float32)
        return decode(codes, schedule, self.window_values)

    def _codes_of(self, i: int) -> Tensor:
        layout = self.layouts[i]
        return self._of_class("codes", i, self.codes).view(layout.size, layout.schedule.n_bytes)

    def _of_class(self, name: str, i: int, values: Tensor) -> Tensor:
        """Return the part of `values`, which are codes, scales or bases, that belongs to a class or basis."""
        begin, end = self._parts[name][i : i + 2]
        return values[begin:end]

    def _value(self, name: str) -> Tensor:
        """Return bases or scales as they are stored, in float32 with a gradient where they are trained."""
        stored: Tensor = getattr(self, name)
        if self.masters is None:
            return stored
        master, lengths = self.masters.get_parameter(name), self._lengths(self.masters.get_parameter("bases"))
        with torch.no_grad():
            packed = self._in_units(self._packed(self.masters, name))
        return straight_through(
            master / lengths[:, None] if name == "bases" else master * lengths[self._directions], packed
        )

    def _masters(self, coefficients: bool) -> MasterWeights:  # noqa: ARG002 (they are not integers)
        bases, scales = self.bases.float(), self.scales.float()
        if not self.bases.is_floating_point():
            # an ordinary learning rate moves vectors of length 1
            bases = torch.nn.functional.normalize(bases, dim=1)
            scales = scales / self._lengths(bases)[self._directions]
        return MasterWeights({"bases": bases, "scales": scales}, {})

    def _packed(self, masters: MasterWeights, name: str) -> Tensor:
        """Return what stores trained bases or scales."""
        bases = masters.get_parameter("bases")
        if name == "bases":
            return stored_basis(bases, self.bases.dtype)
        scales: Tensor = masters.get_parameter(name) * self._lengths(bases)[self._directions]
        return scales.to(self.scales.dtype)

    @cached_property
    def _directions(self) -> Tensor:
        """Return the place among `bases` of the direction of each scale, on the CPU."""
        starts = self._parts["bases"]
        places = [starts[layout.basis] + i for layout in self.layouts for i in layout.schedule.coded]
        return torch.tensor(places, dtype=torch.int64, device="cpu")

    def _lengths(self, bases: Tensor) -> Tensor:
        """Return what the scales take over from each vector (ranks together,) where bases are int8."""
        if self.bases.is_floating_point():
            return bases.new_ones(len(bases))
        largest = bases.detach().abs().amax(1) * BASIS_STEPS / (BASIS_STEPS - 1)
        return torch.where(largest > 0, largest, 1.0)

    def _pack(self, masters: MasterWeights) -> None:
        for name in ("bases", "scales"):
            getattr(self, name).copy_(self._packed(masters, name))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return (.., n): hidden vectors are taken into each basis, so that no row is multiplied out."""
        flat = hidden.reshape(-1, self.embedding_dim).float()
        bases, scales = self._value("bases"), self._value("scales")
        inner = [flat @ self.basis(i, bases).T for i in range(len(self.ranks))]
        parts = [self._logits_of(i, inner[layout.basis], scales) for i, layout in enumerate(self.layouts)]
        columns = columns_of(self.assignment, self.position, self.sizes)
        found = in_order(chain(*parts, [flat @ self.fixed.float().T]), columns)
        return found.view(*hidden.shape[:-1], self.num_embeddings).to(hidden.dtype)

    def _logits_of(self, i: int, inner: Tensor, scales: Tensor) -> Iterator[Tensor]:
        """Yield the logits (t, block) of blocks of rows of class i, from hidden vectors (t, rank) in its basis."""
        layout = self.layouts[i]
        coded = layout.schedule.coded
        own = inner[:, : len(coded)] if coded == list(range(len(coded))) else inner[:, coded]
        scaled = own * self._of_class("scales", i, scales).float()
        # small enough that what each pass leaves is still in the cache for the next
        for part in blocks(layout.size, max(1, len(coded)), elements=_BLOCK_ELEMENTS):
            yield scaled @ self.read(i, part).T

    @torch.no_grad()
    def fill(self, i: int, codes: Tensor, scales: Tensor) -> None:
        """Set codes (size, n_bytes) and scales (coded,) of class i."""
        self._codes_of(i).copy_(codes)
        self._of_class("scales", i, self.scales).copy_(scales)

    def spec(self) -> dict[str, Any]:
        """Return the layout: shape, classes, ranks of the bases, padding index."""
        return {
            "class": type(self).__name__,
            "n": self.num_embeddings,
            "d": self.embedding_dim,
            "layouts": [asdict(layout) | {"pairs": list(layout.pairs)} for layout in self.layouts],
            "ranks": self.ranks,
            "basis_dtype": str(self.bases.dtype).removeprefix("torch."),
            "padding_idx": self.padding_idx,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any], *, dtype: torch.dtype, device: torch.device | str | None) -> Self:
        """Return an empty layer of the layout that `spec` describes."""
        layouts = [ClassLayout(item["size"], item["basis"], tuple(item["pairs"])) for item in spec["layouts"]]
        return cls(
            spec["n"],
            spec["d"],
            layouts,
            spec["ranks"],
            basis_dtype=getattr(torch, spec.get("basis_dtype", "float16")),
            padding_idx=spec["padding_idx"],
            dtype=dtype,
            device=device,
        )

    @property
    def parameters_stored(self) -> int:
        """Return coded coefficients, directions of the bases, and the padding row."""
        coded = sum(layout.size * len(layout.schedule.coded) for layout in self.layouts)
        return coded + self.bases.numel() + self.fixed.numel()


class MixedHead(CompressedHead):
    """Give the output layer tied to a `MixedEmbedding`."""


def _ends(sizes: Sequence[int]) -> list[int]:
    return [0, *accumulate(sizes)]
