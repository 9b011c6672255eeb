"""Where the alternation starts: a first partition of the rows."""

import torch
from torch import Tensor

from foldflat.axes import blocks
from foldflat.cluster.centres import kmeans_centres
from foldflat.cluster.rows import WeightedRows, sampled_positions
from foldflat.cluster.spectral import spectral_partition
from foldflat.errors import RecipeError
from foldflat.randomness import torch_generator

__all__ = ["STARTS", "first_partition", "random_partition", "spherical_partition"]

STARTS = ("spherical", "spectral", "random")

_SAMPLE_ROWS = 16384


def first_partition(rows: WeightedRows, k: int, init: str, seed: int) -> Tensor:
    """Return (m,) labels in 0..k-1 to start from.

    Raises:
        RecipeError: `init` is none of `STARTS`.
    """
    if init == "spherical":
        return spherical_partition(rows, k, seed)
    if init == "spectral":
        return spectral_partition(rows, k, seed)
    if init == "random":
        return random_partition(rows, k, seed)
    raise RecipeError(f"`init` is {init!r}, which is unknown; hint: choose one of {', '.join(STARTS)}")


def random_partition(rows: WeightedRows, k: int, seed: int) -> Tensor:
    """Return a random balanced partition, the start of Maalouf et al. (ICLR 2021)."""
    order = torch.randperm(len(rows), generator=torch_generator(seed))
    labels = torch.empty_like(order)
    labels[order] = torch.arange(len(rows)) % k
    return labels.to(rows.table.device)


def spherical_partition(rows: WeightedRows, k: int, seed: int) -> Tensor:
    """Return the partition of k-means on the directions of the rows.

    Centres are fitted on at most 16,384 rows or 256 per subspace, drawn without replacement; rows of length zero
    have no direction and go to the first cluster.
    """
    if k == 1:
        return torch.zeros(len(rows), dtype=torch.int64, device=rows.table.device)
    positions = sampled_positions(rows, max(_SAMPLE_ROWS, 256 * k), seed)
    centres = _direction_centres(rows, positions, k, seed)
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.table.device)
    # |a/|a| - c|^2 up to a constant; scaling by |a| leaves the argmin alone
    offset = centres.square().sum(1) / 2
    for part in blocks(len(rows), max(k, rows.n_features)):
        block = rows.block(part)
        scores = block @ centres.T - block.norm(dim=1, keepdim=True) * offset
        labels[part] = scores.argmax(1)
    return labels


def _direction_centres(rows: WeightedRows, positions: Tensor, k: int, seed: int) -> Tensor:
    directions = rows.block(positions)
    norms = directions.norm(dim=1)
    usable = norms > 0
    if not bool(usable.any()):
        return directions[:1]
    directions = directions if bool(usable.all()) else directions[usable]
    # of large samples each copy counts, and k-means makes some of its own
    directions /= norms[usable, None]
    weights = rows.weights[positions][usable].cpu().numpy()
    centres = kmeans_centres(directions.cpu().numpy(), weights, k, seed)
    return torch.from_numpy(centres).to(rows.table.device, rows.dtype)
