"""Scripts run in a new process, elsewhere: what folders are read by when nothing of the test is at hand."""

import subprocess
import sys

_READING = """
import os, sys
# starting Python with transformers takes seconds: the process that reads with foldflat begins as a copy of this one
if child := os.fork():
    assert os.waitpid(child, 0)[1] == 0, "reading with foldflat failed"
    for path, kind in refused:
        try:
            kind.from_pretrained(path)
        except OSError as error:
            assert "model.safetensors" in str(error), error
        else:
            sys.exit(f"{path} was loaded without foldflat")
    assert "foldflat" not in sys.modules
    open(sys.argv[1] + ".refused", "w").close()
    sys.exit()
import foldflat
from safetensors.torch import load_file, save_file
"""


def in_new_process(script: str, *arguments: object) -> None:
    """Run a script elsewhere and show what it said if it failed."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def read_with_transformers(before: str, after: str, *arguments: object) -> None:
    """Read folders with foldflat in a new process, and fail to read them without it in another.

    Args:
        before: lines that import transformers and make `refused`: pairs of a path, which is also read once it is
            written by `after`, and a class, which must not load it without foldflat.
        after: lines that read with foldflat, at hand beside `load_file` and `save_file`.
        arguments: of the scripts. Beside the first, ARGUMENT.refused is written once all were refused.
    """
    in_new_process(before + _READING + after, *arguments)
