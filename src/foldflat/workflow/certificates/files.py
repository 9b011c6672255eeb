"""The certificate in a folder: a JSON file, and a paragraph in the model card."""

import json
import os
from pathlib import Path
from typing import Any

from foldflat.errors import CheckpointError
from foldflat.model.manifest import MANIFEST, file_sha256, refresh_checksums
from foldflat.workflow.files import write_json, write_text

__all__ = ["CERTIFICATE", "certificate_of", "keep_certificate"]

CERTIFICATE = "certificate.json"
_HEADING = "## Certificate"


def keep_certificate(folder: Path, certificate: dict[str, Any]) -> None:
    """Write a certificate into a folder, for the model there, and a paragraph into its card; mend their checksums."""
    certificate["files"] = _files(folder)
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {folder.name}\n"
    before, _, earlier = text.partition(f"\n{_HEADING}\n")
    behind = earlier.find("\n#")  # what somebody wrote below an earlier certificate
    rest = earlier[behind:] if behind >= 0 else ""
    write_text(card, f"{before.rstrip()}\n\n{_HEADING}\n\n{certificate['words']}\n{rest}")
    write_json(folder / CERTIFICATE, certificate)
    refresh_checksums(folder, (CERTIFICATE, card.name))


def certificate_of(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the certificate in a folder with what was `changed` since it was given: files of the model, by name.

    None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    file = Path(folder) / CERTIFICATE
    if not file.is_file():
        return None
    try:
        certificate: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = _files(Path(folder))
        # what was added beside them changes nothing, but for weights, which may be loaded in their place
        changed = [name for name, checksum in certificate["files"].items() if found.get(name) != checksum]
        added = [name for name in found if name.endswith(".safetensors") and name not in certificate["files"]]
        return {**certificate, "changed": changed + added}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error})\nhint: delete it, and certify again") from error


def _files(folder: Path) -> dict[str, str]:
    """Return the checksums of the files of a folder that make the model: weights, config, tokenizer, .."""
    files = [file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file()]
    own = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    return {
        file.as_posix(): file_sha256(folder / file)
        for file in own
        if file.suffix != ".md" and file.name not in (CERTIFICATE, MANIFEST)
    }
