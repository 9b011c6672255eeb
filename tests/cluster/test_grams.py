import torch
from hypothesis import given
from hypothesis import strategies as st

from foldflat.cluster.grams import ClusterGrams
from foldflat.cluster.rows import distinct_rows
from foldflat.cluster.subspace import gram_matrix


@given(st.integers(0, 99), st.lists(st.floats(0, 1), max_size=5))
def test_matrices_follow_the_rows_that_move(seed: int, shares: list[float]) -> None:
    """Whatever share of the rows moves between four clusters of a weighted table, also out of all but one."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    rows = distinct_rows(table, 0.1 + torch.rand(30, generator=generator))
    grams, labels = ClusterGrams(rows, 4), torch.randint(4, (30,), generator=generator)
    for share in [0.0, *shares, 1.0]:
        moving = torch.rand(30, generator=generator) < share
        labels[moving] = torch.randint(4, (30,), generator=generator)[moving] if share < 1 else 2
        found = grams.followed(labels)
        for i in range(4):
            expected = gram_matrix(rows, torch.nonzero(labels == i).squeeze(1))
            torch.testing.assert_close(found[i], expected, atol=1e-12, rtol=0)


def test_matrices_know_what_they_were_computed_from() -> None:
    """Only computing counts, and only for the partition it was done for, even where labels change in place."""
    rows = distinct_rows(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)))
    grams, labels = ClusterGrams(rows, 2), torch.tensor([0, 0, 0, 1, 1, 1])
    assert not grams.are_computed(labels)
    grams.computed(labels)
    assert grams.are_computed(labels)
    labels[0] = 1
    assert not grams.are_computed(labels)
    grams.followed(labels)
    assert not grams.are_computed(labels)
