"""Check what a search keeps of groups whose numbers are given."""

import torch

from foldflat.filters.allocation import Candidate, by_share


def test_the_order_of_removal_decides_among_equal_scores() -> None:
    """A channel removed later stays longer, whatever its place."""
    scores = torch.tensor([2.0, 6.0, 2.0], dtype=torch.float64)
    ranked = Candidate(scores, order=torch.tensor([1, 2, 0]))
    assert by_share([ranked], 1)(2 / 3)[0].kept.tolist() == [1, 2]
    assert by_share([Candidate(scores)], 1)(2 / 3)[0].kept.tolist() == [0, 1]
