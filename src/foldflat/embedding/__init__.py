"""Embedding tables in fewer numbers: subspaces, and the formats they are measured against."""

from foldflat.embedding.module import SubspaceEmbedding, SubspaceHead
from foldflat.embedding.plan import EmbeddingPlan
from foldflat.embedding.recipe import EmbeddingRecipe

__all__ = ["EmbeddingPlan", "EmbeddingRecipe", "SubspaceEmbedding", "SubspaceHead"]
