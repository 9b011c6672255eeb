from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tests.cluster.oracle import energy, parameters
from tests.tiny import planted_table

from foldflat.cluster import ProjectiveClustering

Array = NDArray[Any]


def uneven_table() -> Array:
    """Draw rows near 12 subspaces of rank 3 or 9, some of them crowded: ranks should not be equal."""
    thin, _ = planted_table(2000, 32, 4, 3, noise=0.25, seed=1)
    thick, _ = planted_table(1000, 32, 8, 9, noise=0.25, seed=2)
    return torch.cat([thin, thick]).numpy()


@pytest.fixture(params=["generated", "potion-base-2M"])
def table(request: pytest.FixtureRequest) -> Array:
    """Return the generated table, or 3,000 rows of a static sentence embedder's."""
    if request.param == "generated":
        return uneven_table()
    path: Path = request.getfixturevalue("data_root") / "models" / "potion-base-2M" / "model.safetensors"
    if not path.is_file():
        pytest.skip(f"no real data: {path} does not exist")
    rows = load_file(path)["embeddings"].float().numpy()
    return rows[np.random.default_rng(0).permutation(len(rows))[:3000]]


@pytest.mark.parametrize("keep", [0.6, 0.3])
def test_free_ranks_from_directions_beat_equal_ranks_from_chance(table: Array, keep: float) -> None:
    """With eight subspaces and one budget, ours loses less than the SVD and than the paper's algorithm.

    The paper's: a random balanced start, equal ranks, 20 steps; the best of three starts.
    """
    svd = ProjectiveClustering(1, keep_ratio=keep).fit(table)
    papers = ProjectiveClustering(8, keep_ratio=keep, init="random", n_init=3, max_iter=20, random_state=0).fit(table)
    ours = ProjectiveClustering(8, keep_ratio=keep, free_ranks=True, random_state=0).fit(table)
    for model in (svd, papers, ours):
        assert parameters(model.labels_, model.ranks_, table.shape[1]) <= keep * table.size
    assert ours.cost_ < 0.95 * papers.cost_ < papers.cost_ < svd.cost_ < energy(table)
