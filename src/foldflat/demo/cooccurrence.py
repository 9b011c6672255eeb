"""A first word table from counts: which tokens stand near which."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

__all__ = ["cooccurrence_table"]

# Context counts are raised to this power, which keeps rare contexts from dominating (Levy et al. 2015).
_SMOOTHING = 0.75


def cooccurrence_table(
    sequences: Sequence[Sequence[int]], n: int, d: int, *, window: int, std: float, seed: int
) -> Tensor:
    """Return a float32 table (n, d) whose rows point in like directions for tokens that occur in like places.

    It factorises the positive pointwise mutual information of tokens at most `window` apart, as Levy and
    Goldberg (2014) do in place of word2vec. Rows have equal norms, with a root mean square of `std`; tokens that
    do not occur get a row of zeros. A classifier that starts from it learns in a few epochs, and its table then
    has a slowly falling spectrum, as pre-trained ones have and one learnt from labels alone has not.
    """
    information = _positive_information(_counts(sequences, n, window))
    left, values, _ = randomized_svd(information, d, random_state=seed)
    rows = left * np.sqrt(values)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows *= std * np.sqrt(d) / np.where(norms > 0, norms, 1.0)
    return torch.from_numpy(rows.astype(np.float32))


def _counts(sequences: Sequence[Sequence[int]], n: int, window: int) -> sparse.csr_matrix:
    counts = sparse.csr_matrix((n, n), dtype=np.float64)
    arrays = [np.asarray(sequence) for sequence in sequences]
    for offset in range(1, window + 1):
        first = np.concatenate([array[:-offset] for array in arrays])
        second = np.concatenate([array[offset:] for array in arrays])
        counts += sparse.coo_matrix((np.ones(len(first)), (first, second)), shape=(n, n)).tocsr()
    return counts + counts.T


def _positive_information(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    pairs = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    contexts = totals**_SMOOTHING / np.sum(totals**_SMOOTHING)
    values = np.log(pairs.data / (totals[pairs.row] * contexts[pairs.col]))
    kept = values > 0
    return sparse.csr_matrix((values[kept], (pairs.row[kept], pairs.col[kept])), shape=counts.shape)
