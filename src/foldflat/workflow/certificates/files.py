"""The certificate in a folder: a JSON file, and a paragraph in the model card."""

import json
import os
from pathlib import Path
from typing import Any

from foldflat.errors import CheckpointError
from foldflat.model.manifest import file_sha256, refresh_checksums
from foldflat.workflow.files import write_json, write_text

__all__ = ["CERTIFICATE", "certificate_of", "keep_certificate"]

CERTIFICATE = "certificate.json"
_HEADING = "## Certificate"


def keep_certificate(folder: Path, certificate: dict[str, Any]) -> None:
    """Write a certificate into a folder, for the weights there, and a paragraph into its card; mend their checksums."""
    certificate["weights"] = _weights(folder)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {folder.name}\n"
    before, _, earlier = text.partition(f"\n{_HEADING}\n")
    behind = earlier.find("\n#")  # what somebody wrote below an earlier certificate
    rest = earlier[behind:] if behind >= 0 else ""
    write_text(card, f"{before.rstrip()}\n\n{_HEADING}\n\n{certificate['words']}\n{rest}")
    write_json(folder / CERTIFICATE, certificate)
    refresh_checksums(folder, (CERTIFICATE, card.name))


def certificate_of(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the certificate in a folder with `valid`: whether the weights are those that it was given for.

    None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    file = Path(folder) / CERTIFICATE
    if not file.is_file():
        return None
    try:
        certificate: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {**certificate, "valid": certificate["weights"] == _weights(Path(folder))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error})\nhint: delete it, and certify again") from error


def _weights(folder: Path) -> dict[str, str]:
    """Return the checksums of the weights files of a folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}
