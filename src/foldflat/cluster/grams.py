"""Gram matrices of clusters that follow the rows as they move."""

import torch
from torch import Tensor

from foldflat.cluster.rows import WeightedRows
from foldflat.cluster.subspace import gram_matrix, members_by_label

__all__ = ["ClusterGrams"]


class ClusterGrams:
    """Hold the weighted Gram matrix of every cluster of a partition."""

    def __init__(self, rows: WeightedRows, k: int) -> None:
        """Hold nothing yet; m distinct rows, k clusters."""
        self._rows, self._k = rows, k
        self._labels: Tensor | None = None
        self._grams: list[Tensor] = []
        self._afresh = False

    def are_computed(self, labels: Tensor) -> bool:
        """Return whether the matrices of this partition were the last to be computed from all rows."""
        return self._afresh and self._labels is not None and torch.equal(labels, self._labels)

    def computed(self, labels: Tensor) -> list[Tensor]:
        """Return the k matrices (d, d) of a partition, from all rows."""
        self._grams = [gram_matrix(self._rows, members) for members in members_by_label(labels, self._k)]
        self._labels, self._afresh = labels.clone(), True
        return self._grams

    def followed(self, labels: Tensor) -> list[Tensor]:
        """Return the same up to rounding, from the rows that have moved where those are fewer."""
        if self._labels is None:
            return self.computed(labels)
        moved = torch.nonzero(labels != self._labels).squeeze(1)
        entered = members_by_label(labels[moved], self._k)
        left = members_by_label(self._labels[moved], self._k)
        sizes = torch.bincount(labels, minlength=self._k).tolist()
        for i in range(self._k):
            if len(entered[i]) + len(left[i]) < sizes[i]:
                self._grams[i] += gram_matrix(self._rows, moved[entered[i]])
                self._grams[i] -= gram_matrix(self._rows, moved[left[i]])
            else:
                self._grams[i] = gram_matrix(self._rows, torch.nonzero(labels == i).squeeze(1))
        self._labels, self._afresh = labels.clone(), False
        return self._grams
