"""Count parameters and bytes."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from foldflat.axes import blocks
from foldflat.cluster.source import RowSource

__all__ = ["model_size_bytes", "state_sha256", "tensor_sha256"]


def model_size_bytes(model: nn.Module) -> int:
    """Return the bytes of every parameter and persistent buffer, shared ones counted once."""
    tensors = {
        (tensor.data_ptr(), tensor.shape): tensor.numel() * tensor.element_size()
        for tensor in model.state_dict().values()
        if isinstance(tensor, Tensor)
    }
    return sum(tensors.values())


def state_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors in the order of their names: names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor_sha256(tensor.flatten())} {list(tensor.shape)}\n".encode())
    return digest.hexdigest()


def tensor_sha256(tensor: Tensor | RowSource) -> str:
    """Return the SHA-256 of the numbers of a tensor (n, ..), row after row."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for part in blocks(tensor.shape[0], max(1, tensor[:1].numel())):
        digest.update(tensor[part].detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
