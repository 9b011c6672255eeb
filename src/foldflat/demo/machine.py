"""What the figures were measured on, and where the demo keeps its files."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch

import foldflat

__all__ = ["cache_folder", "describe_machine", "versions"]


def cache_folder() -> Path:
    """Return FOLDFLAT_CACHE, else `foldflat` in XDG_CACHE_HOME, else in ~/.cache; it need not exist."""
    if given := os.environ.get("FOLDFLAT_CACHE"):
        return Path(given).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification calls a relative path invalid and has it ignored.
    parent = Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache"
    return parent / "foldflat"


def describe_machine() -> dict[str, Any]:
    """Return processor, threads and versions, as JSON values."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "platform": platform.platform(),
        **versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, foldflat and what trains the classifier."""
    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")}
    return {"python": platform.python_version(), "foldflat": foldflat.__version__, **packages}


def _cpu_model() -> str:
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
