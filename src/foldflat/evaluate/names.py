"""Tell a folder on this machine from a name on the hub."""

import os
from pathlib import Path

from foldflat.errors import ModelNotFoundError

__all__ = ["local_folder"]


def local_folder(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder that `name` means, or None where it can only be a name on the hub (`owner/name`).

    Raises ModelNotFoundError for a file, and for a path that does not exist.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelNotFoundError(f"{str(name)!r} is a file\nhint: a folder or a name on the hub is needed")
    if isinstance(name, str) and not name.startswith((".", "~", "/")) and "\\" not in name and name.count("/") < 2:
        return None
    raise ModelNotFoundError(f"no folder {str(name)!r}\nhint: relative paths start at {str(Path.cwd())!r}")
