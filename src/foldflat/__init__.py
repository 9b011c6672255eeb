"""Make trained networks smaller, and say how sure it is that they still work.

    result = foldflat.compress(model, foldflat.EmbeddingRecipe(keep_ratio=0.6))
    foldflat.save(result, "smaller")

Importing needs torch only. Where transformers is installed, `from_pretrained` then reads folders that `save` wrote.
"""

from foldflat import certify, errors
from foldflat.checkpoint import load, save
from foldflat.cluster import ProjectiveClustering
from foldflat.embedding import EmbeddingPlan, EmbeddingRecipe, SubspaceEmbedding, SubspaceHead
from foldflat.errors import FoldflatError
from foldflat.filters import FilterPlan, FilterRecipe
from foldflat.model.hub.registration import register_loader
from foldflat.pipeline import Result, apply, build_empty, compress, plan

__all__ = [
    "EmbeddingPlan",
    "EmbeddingRecipe",
    "FilterPlan",
    "FilterRecipe",
    "FoldflatError",
    "ProjectiveClustering",
    "Result",
    "SubspaceEmbedding",
    "SubspaceHead",
    "__version__",
    "apply",
    "certify",
    "compress",
    "errors",
    "load",
    "plan",
    "save",
]

__version__ = "0.1.0"

register_loader(build_empty)
del register_loader, build_empty
