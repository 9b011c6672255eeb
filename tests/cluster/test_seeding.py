import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from tests.tiny import planted_table

from foldflat.cluster import seeding, spectral
from foldflat.cluster.rows import WeightedRows, distinct_rows
from foldflat.cluster.seeding import first_partition, random_partition, spherical_partition
from foldflat.cluster.spectral import spectral_partition
from foldflat.errors import RecipeError


def bundles(n: int, k: int, seed: int = 0) -> tuple[WeightedRows, torch.Tensor]:
    """Draw rows of very different lengths around k directions at right angles; return the bundle of each."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    rows = torch.eye(k)[labels] + 0.1 * torch.randn(n, k, generator=generator)
    rows = distinct_rows(rows * torch.logspace(-3, 3, n)[:, None])
    return rows, labels[rows.index]


def test_random_partition_is_balanced_and_repeatable() -> None:
    """Cluster sizes differ by one at most; the seed alone decides."""
    rows = distinct_rows(torch.randn(23, 3, generator=torch.Generator().manual_seed(0)))
    first = random_partition(rows, 5, seed=1)
    assert sorted(torch.bincount(first, minlength=5).tolist()) == [4, 4, 5, 5, 5]
    assert torch.equal(first, random_partition(rows, 5, seed=1))
    assert not torch.equal(first, random_partition(rows, 5, seed=2))


@pytest.mark.parametrize("limit", [seeding._SAMPLE_ROWS, 10], ids=["all rows", "a sample"])
def test_spherical_partition_goes_by_direction_not_length(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles of rows are found although lengths run over six decades, from all rows or from a sample of them."""
    monkeypatch.setattr(seeding, "_SAMPLE_ROWS", limit)
    rows, bundle = bundles(3000, 4)
    assert adjusted_rand_score(spherical_partition(rows, 4, seed=0), bundle) == 1


def test_centres_see_weights() -> None:
    """Two centres for three bundles: the light one has to share, whichever it is."""
    table = torch.eye(3).repeat_interleave(40, 0)
    table += 0.05 * torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
    for light in range(3):
        weights = torch.ones(120).masked_fill_(torch.arange(120) // 40 == light, 1e-3)
        labels = spherical_partition(distinct_rows(table, weights), 2, seed=0)
        rows = distinct_rows(table, weights)
        heavy = [i for i in range(3) if i != light]
        first, second = (labels[rows.index // 40 == i] for i in heavy)
        assert set(first.tolist()).isdisjoint(second.tolist())


@pytest.mark.parametrize("limit", [2000, 500], ids=["all rows", "landmarks"])
def test_spectral_partition_finds_subspaces_without_a_mean(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Normal rows in subspaces that overlap: squared cosines tell them, directions do not."""
    monkeypatch.setattr(spectral, "_SAMPLE_ROWS", limit)
    table, planted = planted_table(2000, 32, 5, 8)
    rows = distinct_rows(table)
    planted = planted[rows.index]
    assert adjusted_rand_score(planted, spectral_partition(rows, 5, seed=0)) > 0.85
    assert adjusted_rand_score(planted, spherical_partition(rows, 5, seed=0)) < 0.3


@pytest.mark.parametrize("k", [1, 3, 8])
def test_spectral_partition_of_few_or_equal_rows(k: int) -> None:
    """Zeros, fewer directions than subspaces, and one row are no error; labels stay below k."""
    line = torch.tensor([[1.0, 2.0, 0.0]])
    for table in (torch.zeros(5, 3), torch.cat([torch.zeros(1, 3), line, -2 * line, 3 * line]), line, torch.eye(3)):
        labels = spectral_partition(distinct_rows(table), k, seed=0)
        assert labels.shape == (len(distinct_rows(table)),)
        assert labels.max() < k


def test_rows_of_zeros_have_no_direction() -> None:
    """They go to the first cluster, also when there is nothing else."""
    table = torch.cat([torch.zeros(1, 4), torch.eye(4), 2 * torch.eye(4)])
    rows = distinct_rows(table)
    labels = spherical_partition(rows, 4, seed=0)
    assert labels[rows.inverse[0]] == 0
    assert sorted(torch.bincount(labels[rows.inverse[1:]]).tolist()) == [2, 2, 2, 2]
    assert spherical_partition(distinct_rows(torch.zeros(5, 4)), 3, seed=0).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_subspaces_than_directions_is_no_error(dtype: torch.dtype) -> None:
    """Rows on two lines have two directions up to rounding; eight clusters leave some empty, without a warning."""
    generator = torch.Generator().manual_seed(0)
    lines = torch.randn(2, 1, 7, generator=generator, dtype=torch.float64)
    table = (torch.rand(1, 40, 1, generator=generator, dtype=torch.float64) + 0.1) * lines
    rows = distinct_rows(table.reshape(80, 7).to(dtype))
    labels = spherical_partition(rows, 8, seed=0)
    on_first = rows.index < 40
    assert set(labels[on_first].tolist()).isdisjoint(labels[~on_first].tolist())
    assert labels.max() < 8


def test_global_random_state_is_left_alone() -> None:
    """Starts draw from their seed only; what else draws numbers does not notice."""
    table, _ = planted_table(60, 8, 3, 2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # is it touched?
    for init in seeding.STARTS:
        first_partition(distinct_rows(table), 3, init, seed=5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002  # see above


def test_unknown_start_is_named() -> None:
    """The message gives what was asked and what there is."""
    with pytest.raises(RecipeError, match=r"`init` is 'best', which is unknown; hint: .* spherical, spectral, random"):
        first_partition(distinct_rows(torch.eye(2)), 1, "best", seed=0)
