"""Whether a compressed folder was made of the model that it is compared with."""

from pathlib import Path
from typing import Any

from torch import nn

from foldflat.embedding.matching import check_fits_model
from foldflat.embedding.plan import EmbeddingPlan
from foldflat.errors import DataError, FoldflatError
from foldflat.filters.plan import FilterPlan
from foldflat.filters.pruning import check_fits_network
from foldflat.model.channels import named_tensors
from foldflat.model.manifest import MANIFEST, read_manifest
from foldflat.model.size import state_sha256

__all__ = ["require_origin"]


def require_origin(original: Any, folder: Path, name: str) -> None:
    """Compare the plan in a folder with the model that it is said to be made of; a folder without one is let pass.

    That is one that was trained further: what it was made of is no longer what it is compared with.

    Args:
        original: a network, a classifier, a sentence encoder, or a table in a module.
        folder: of the compressed model.
        name: of the original, for the message.

    Raises:
        DataError: it was made of other weights.
    """
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
    plan = manifest.get("plan")
    if plan is None:
        return
    try:
        if plan.get("family") != "filters":
            differences = check_fits_model(EmbeddingPlan.from_dict(plan), _with_tables(original))
        elif "original_sha256" in manifest["report"]:
            same = state_sha256(named_tensors(original)) == manifest["report"]["original_sha256"]
            differences = [] if same else [f"{type(original).__name__} has other weights"]
        else:
            differences = check_fits_network(FilterPlan.from_dict(plan), original)
    except FoldflatError as error:
        differences = [str(error)]
    if differences:
        raise DataError(
            f"{folder} was not made of {name!r}: {differences[0]}\n"
            "hint: the model before compression, and the one after it"
        )


def _with_tables(model: Any) -> nn.Module:
    """Return the module whose names a plan uses: the transformer of a sentence encoder, the table of a mean."""
    table = getattr(model, "table", None)
    if isinstance(table, nn.Module):
        return table
    inner = model[0] if isinstance(model, nn.Sequential) else model
    found: nn.Module = getattr(inner, "auto_model", None) or getattr(inner, "model", None) or inner
    return found
