"""Read models of transformers from folders and hub names, and what lies beside them."""

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from foldflat.errors import ModelNotFoundError, UnsupportedModelError
from foldflat.model.hub import quiet_transformers, require_transformers

__all__ = ["copy_companions", "front_matter", "load_pretrained", "transformer_module_path"]

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ckpt", ".ot"}
_WEIGHT_FOLDERS = {"onnx", "openvino", "coreml"}
_OURS = {
    *("config.json", "README.md", "foldflat.json", "training_args.bin", "generation_config.json"),
    "certificate.json",  # for the weights that it lies beside
}


def load_pretrained(source: str | Path) -> nn.Module:
    """Return the transformers model of a folder or hub name, of the class its config names, in its own type.

    Raises:
        ModelNotFoundError: neither a model folder nor a name that the hub (or its cache) knows.
        UnsupportedModelError: its class is not part of transformers.
    """
    transformers = require_transformers()
    if Path(source).exists() and not (Path(source) / "config.json").is_file():
        raise ModelNotFoundError(
            f"{source} is not a model: it has no config.json; hint: give a transformers or sentence-transformers "
            "folder, a hub name, FILE.safetensors[:TENSOR] or FILE.npy"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"{source!r} is neither a model folder nor a hub name that can be reached ({_first_line(error)})"
        ) from error
    name = (getattr(config, "architectures", None) or ["AutoModel"])[0]
    kind = getattr(transformers, name, None)
    if kind is None:
        raise UnsupportedModelError(
            f"{source} is a {name}, which transformers {transformers.__version__} does not have; hint: load it "
            "yourself and call foldflat.compress"
        )
    try:
        with quiet_transformers():
            model: nn.Module = kind.from_pretrained(source, dtype="auto")
    except OSError as error:
        raise ModelNotFoundError(f"{source} cannot be loaded ({_first_line(error)})") from error
    return model


def copy_companions(source: str | Path, folder: Path) -> None:
    """Copy what belongs to a model and is neither weights nor config: tokenizer and processor files, modules.

    From a hub name, the tokenizer is saved instead.
    """
    origin = Path(source)
    if not origin.is_dir():
        try:
            require_transformers().AutoTokenizer.from_pretrained(str(source)).save_pretrained(folder)
        except (OSError, ValueError, KeyError):
            return
        return
    for file in sorted(origin.rglob("*")):
        relative = file.relative_to(origin)
        hidden = any(part.startswith(".") or part in _WEIGHT_FOLDERS for part in relative.parts)
        target = folder / relative
        if not file.is_file() or hidden or _is_weights(file) or (relative.name in _OURS and len(relative.parts) == 1):
            continue
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def transformer_module_path(folder: Path) -> str | None:
    """Return where the inner transformer of a sentence-transformers folder lies, "" for its top; None for others.

    Raises:
        UnsupportedModelError: a sentence-transformers folder without a transformer, such as a static embedder.
    """
    file = folder / "modules.json"
    if not file.is_file():
        return None
    modules: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    for module in modules:
        if module["type"].rpartition(".")[2] == "Transformer":
            path: str = module["path"]
            return path
    kinds = ", ".join(module["type"].rpartition(".")[2] for module in modules)
    raise UnsupportedModelError(
        f"{folder} is a sentence encoder of {kinds}, without a transformer; hint: compress its table by itself, as "
        "FILE.safetensors:TENSOR"
    )


def front_matter(source: str, *, tags: list[str]) -> str:
    """Return the YAML head of a model card, with base model and licence where the source's card names them."""
    from huggingface_hub import ModelCard, ModelCardData

    card = Path(source) / "README.md"
    given = ModelCard.load(card).data if card.is_file() else ModelCardData()
    data = ModelCardData(
        license=given.license,
        license_name=given.license_name,
        license_link=given.license_link,
        language=given.language,
        base_model=Path(source).name if Path(source).is_dir() else source,
        library_name="transformers",
        pipeline_tag=given.pipeline_tag,
        tags=tags,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _is_weights(file: Path) -> bool:
    return file.suffix in _WEIGHT_SUFFIXES or file.name.endswith(".index.json")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
