"""What the experiments have in common: where data lies, what machine this is, results written as they come."""

import json
import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
NEARLY = 0.05
DATA = Path(os.environ.get("FOLDFLAT_DATA", ROOT.parent / "shared"))


def hardware() -> dict[str, Any]:
    """Return what figures depend on: processor, threads, versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = f"{names[0]} x {len(names)}" if names else model
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write beside and rename, so that an interrupted run leaves whole files only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def by_size(
    heading: str,
    ratios: tuple[int, ...],
    rows: dict[str, list[dict[str, Any]]],
    entry: Callable[[list[dict[str, Any]], int], str],
) -> str:
    """Return a table with sizes across and a row for each label that has cells."""
    lines = [f"| {heading} | " + " | ".join(f"{r} x" for r in ratios) + " |", "|---" * (len(ratios) + 1) + "|"]
    lines += [f"| {label} | " + " | ".join(entry(own, r) for r in ratios) + " |" for label, own in rows.items() if own]
    return "\n".join(lines)


def off_size(ratio: float, column: int) -> str:
    """Return by how much smaller something is than float32 where that is not what its column says."""
    return "" if abs(ratio / column - 1) <= NEARLY else f" at {ratio:.1f} x"


def planted_rows(
    bases: Iterable[torch.Tensor],
    members: Iterable[torch.Tensor],
    noise: torch.Tensor,
    generator: torch.Generator,
    spectrum: float | torch.Tensor = 1.0,
) -> torch.Tensor:
    """Return (n, d): normal coefficients times `spectrum` in the basis of each row's subspace, added to the noise.

    Args:
        bases: matrices (rank, d) with orthonormal rows.
        members: positions of the rows of each.
        noise: (n, d), changed in place.
        generator: draws the coefficients.
        spectrum: standard deviation of the coefficients, (rank,) or one number.
    """
    for own, basis in zip(members, bases, strict=True):
        noise[own] += (torch.randn(len(own), len(basis), generator=generator) * spectrum) @ basis
    return noise
