"""Projective clustering of the rows of a table; usable without any network."""

from foldflat.cluster.estimator import ProjectiveClustering

__all__ = ["ProjectiveClustering"]
