"""The quantizer that transformers calls for folders written by foldflat. Imported with transformers only."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from foldflat.model import hub
from foldflat.model.hub import registration
from foldflat.model.hub.weights_file import check_weights_file
from foldflat.model.removal import resized

__all__ = ["FoldflatConfig", "FoldflatQuantizer"]


@register_quantization_config(hub.METHOD)
class FoldflatConfig(QuantizationConfigMixin):
    """Say in config.json which modules are replaced, and by what layout.

    Attributes:
        tables: for each replaced weight its module names, tied heads and layout.
        pruned: of a network with fewer channels, shapes by tensor and attributes by module.
    """

    def __init__(
        self,
        tables: list[dict[str, Any]],
        pruned: dict[str, Any] | None = None,
        format: int = hub.CONFIG_FORMAT,  # noqa: A002
        **_: Any,
    ) -> None:
        self.quant_method = hub.METHOD  # type: ignore[assignment]
        self.format = format
        self.tables = tables
        if pruned is not None:
            self.pruned = pruned


@register_quantizer(hub.METHOD)
class FoldflatQuantizer(HfQuantizer):
    """Replace embeddings by empty compressed ones before weights load, and finish them afterwards."""

    quantization_config: FoldflatConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Refuse folders of a newer format."""
        hub.check_config_format(self.quantization_config.format)

    def update_attn_implementation(self, config: Any) -> Any:
        """Point transformers at our weights file, in memory only."""
        config.transformers_weights = hub.WEIGHTS_NAME
        return config

    def update_tp_plan(self, config: Any) -> Any:
        """Do the same where transformers (5.0 to 5.18) has no earlier hook."""
        return self.update_attn_implementation(config)

    update_ep_plan = update_tp_plan

    def get_new_dtype(self, converter: Any, param: Any, dtype: Any) -> Any:
        """Leave scales, codes and factors of a chosen type as the skeleton has them."""
        return super().get_new_dtype(converter, param, dtype)

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        tables = [_renamed(table, model) for table in self.quantization_config.tables]
        dtype = kwargs.get("dtype") or torch.get_default_dtype()
        registration.build(model, [table for table in tables if table["names"]], dtype)
        _resize(model, getattr(self.quantization_config, "pruned", None))
        expected = {
            f"{name}.{key}": tuple(tensor.shape)
            for name, module in model.named_modules()
            if hasattr(module, "rebuild")
            for key, tensor in module.state_dict().items()
        }
        for file in kwargs.get("checkpoint_files") or ():
            check_weights_file(Path(file), expected, model.base_model_prefix)  # type: ignore[arg-type]
        hub.restore(model)
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        _own_memory(model)
        for module in model.modules():
            if hasattr(module, "rebuild"):
                module.rebuild()  # type: ignore[operator] # typed as a parameter by nn.Module
        # from here on it is an ordinary model: `.half()`, Trainer and saving need no quantizer
        for name in ("hf_quantizer", "quantization_method"):
            model.__dict__.pop(name, None)
        model.is_quantized = False  # type: ignore[assignment]
        model.config._is_quantized = False  # type: ignore[union-attr]
        model.config.__dict__.pop("transformers_weights", None)
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Return true: the saving class writes a complete folder."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Return true: coefficients and bases are parameters."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Return true, for Trainer."""
        return True


def _resize(model: nn.Module, pruned: dict[str, Any] | None) -> None:
    """Give a network with fewer channels its shapes, whether it is loaded with its head or without."""
    if pruned is None:
        return
    tensors = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    modules = {name for name, _ in model.named_modules()}
    prefix = getattr(model, "base_model_prefix", "")

    def present(values: dict[str, Any], names: set[str]) -> dict[str, Any]:
        resolved = ((_resolved(name, names, prefix), value) for name, value in values.items())
        return {name: value for name, value in resolved if name is not None}

    resized(model, present(pruned["shapes"], tensors), present(pruned["attributes"], modules))


def _resolved(name: str, present: Collection[str], prefix: str) -> str | None:
    """Return what a name is called in a model with a head or in its base model, None where it is absent."""
    variants = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
    return next((variant for variant in variants if variant in present), None)


def _own_memory(model: nn.Module) -> None:
    # tensors mapped from a file are misaligned, which changes the last bits of products
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _renamed(table: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Translate names between a model with a head and its base model; modules that it lacks are left out."""
    present = dict(model.named_modules(remove_duplicate=False))
    prefix = getattr(model, "base_model_prefix", "")

    def resolve(names: list[str]) -> list[str]:
        return [found for name in names if (found := _resolved(name, present, prefix))]

    return {**table, "names": resolve(table["names"]), "heads": resolve(table["heads"])}
