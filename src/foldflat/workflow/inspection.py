"""What a model consists of, and what foldflat did to it."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from foldflat.embedding.base import CompressedEmbedding, CompressedHead
from foldflat.embedding.build import embedding_from_spec
from foldflat.model import hub
from foldflat.model.manifest import MANIFEST, read_manifest, verify_files
from foldflat.model.size import model_size_bytes
from foldflat.pipeline import as_module
from foldflat.workflow.sources import open_source

__all__ = ["inspect_model"]


def inspect_model(source: str) -> dict[str, Any]:
    """Return what a model consists of, as JSON values.

    A network of the user's own class is not built: of its tables those are listed that foldflat compressed.

    Args:
        source: what MODEL means on the command line, or the folder of a network that was pruned.

    Returns:
        `model`, `kind`, `size_bytes`; `tables`: of every embedding its shape, type, bytes, share of the model, tied
        layers, how it is stored; `pruning`: the report on removed filters, None where there are none.

    Raises:
        ModelNotFoundError, UnsupportedModelError, CheckpointError, DataError: it cannot be read; says why.
    """
    folder = Path(source)
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
    report = manifest.get("report") or {}
    found = _own_class(folder, manifest) if _is_own_class(folder, manifest) else _opened(source)
    return {"model": source, **found, "pruning": report if "groups" in report else None}


def _is_own_class(folder: Path, manifest: dict[str, Any]) -> bool:
    """Return whether a folder can be loaded only into an instance that its user makes."""
    if not manifest or (folder / manifest.get("inner", "") / "config.json").is_file():
        return False
    return all(table["names"] != [""] for table in manifest["tables"])


def _own_class(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    verify_files(folder, manifest)
    dtype = getattr(torch, manifest.get("dtype", "float32"))
    with safe_open(folder / hub.WEIGHTS_NAME, framework="pt") as stored:
        sizes = {name: _bytes(stored.get_tensor(name)) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    total, tables = sum(sizes.values()), []
    for table in manifest["tables"]:
        own = sum(size for name, size in sizes.items() if name.startswith(f"{table['names'][0]}."))
        entry = _entry(embedding_from_spec(table["spec"], dtype=dtype, device="meta"), total)
        places = {"names": table["names"], "tied_heads": table["heads"]}
        tables.append({**entry, **places, "size_bytes": own, "share": own / total})
    return {"kind": "foldflat", "size_bytes": total, "tables": tables}


def _opened(source: str) -> dict[str, Any]:
    opened = open_source(source)
    model = as_module(opened.model)
    total = model_size_bytes(model)
    tables: dict[int, dict[str, Any]] = {}
    named = list(model.named_modules(remove_duplicate=False))
    for name, module in named:
        if isinstance(module, nn.Embedding | CompressedEmbedding):
            key = id(module.weight) if isinstance(module, nn.Embedding) else id(module)
            entry = tables.setdefault(key, _entry(module, total))
            entry["names"].append(name)
    for name, module in named:
        key = id(module.embedding) if isinstance(module, CompressedHead) else id(getattr(module, "weight", None))
        if key in tables and isinstance(module, nn.Linear | CompressedHead):
            tables[key]["tied_heads"].append(name)
    return {"kind": opened.kind, "size_bytes": total, "tables": list(tables.values())}


def _entry(module: nn.Embedding | CompressedEmbedding, total: int) -> dict[str, Any]:
    compressed = isinstance(module, CompressedEmbedding)
    size = module.size_bytes if isinstance(module, CompressedEmbedding) else _bytes(module.weight)
    dtype = module.anchor.dtype if isinstance(module, CompressedEmbedding) else module.weight.dtype
    return {
        "names": [],
        "tied_heads": [],
        "shape": [module.num_embeddings, module.embedding_dim],
        "dtype": str(dtype).removeprefix("torch."),
        "class": type(module).__name__,
        "stored_as": module.method if compressed else "dense",
        "size_bytes": size,
        "share": size / total,
    }


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
