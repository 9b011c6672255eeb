"""Count parameters and bytes."""

import hashlib

import torch
from torch import Tensor, nn

from foldflat.axes import blocks
from foldflat.cluster.source import RowSource

__all__ = ["model_size_bytes", "tensor_sha256"]


def model_size_bytes(model: nn.Module) -> int:
    """Return the bytes of every parameter and persistent buffer, shared ones counted once."""
    tensors = {
        (tensor.data_ptr(), tensor.shape): tensor.numel() * tensor.element_size()
        for tensor in model.state_dict().values()
        if isinstance(tensor, Tensor)
    }
    return sum(tensors.values())


def tensor_sha256(tensor: Tensor | RowSource) -> str:
    """Return the SHA-256 of the numbers of a tensor (n, ..), row after row."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for part in blocks(tensor.shape[0], max(1, tensor[:1].numel())):
        digest.update(tensor[part].detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
