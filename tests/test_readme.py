"""Execute the README: every Python block and every `$ foldflat` command in order, in one temporary folder.

Python blocks share one namespace. The folder holds `my-model`, a small masked language model with its
tokenizer, and `table.npy`, a bare table, for the README to work on. A block under `<!-- not run: REASON -->`
is skipped with that reason; a block of shell that has no `$ foldflat` line is not looked at.
"""

import contextlib
import dataclasses
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from foldflat.cli import app
from tests.tiny import planted_table, save_tiny_folder

# in order, in one folder and one namespace: by one process
pytestmark = pytest.mark.xdist_group("readme")

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
TABLES_SCRIPT = ROOT / "experiments" / "readme_tables.py"

PYTHON = ("python", "py")
SHELL = ("console", "bash", "sh", "shell")

BLOCK = re.compile(
    r"(?:<!--[ \t]*not run:[ \t]*(?P<reason>[^\n]*?)[ \t]*-->[ \t]*\n\s*)?"
    r"^```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```[ \t]*$",
    re.DOTALL | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, what is in it, and why it is not run, if it is not."""

    line: int
    language: str
    code: str
    reason: str | None


@dataclasses.dataclass
class Workplace:
    """What the blocks share: a folder and a namespace."""

    folder: Path
    namespace: dict[str, Any]


def blocks_of(text: str) -> list[Block]:
    """List the blocks of `text` that are to be run, in order."""
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        block = Block(line, match["language"], match["code"], match["reason"])
        if block.language in PYTHON or (block.language in SHELL and commands_of(block.code)):
            found.append(block)
    return found


def commands_of(code: str) -> list[list[str]]:
    """List the arguments of each `$ foldflat` line; a line that ends in a backslash goes on in the next."""
    joined = code.replace("\\\n", " ")
    lines = [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ foldflat ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def run_python(block: Block, workplace: Workplace) -> None:
    """Execute the block with line numbers of the README, so that a traceback points into it."""
    code = compile("\n" * (block.line - 1) + block.code, str(README), "exec")
    with contextlib.chdir(workplace.folder):
        exec(code, workplace.namespace)


def run_shell(block: Block, workplace: Workplace) -> None:
    """Run each command: one that follows a plan in a process of its own, as later, the others in this one."""
    for arguments in commands_of(block.code):
        if "--plan" not in arguments:
            with contextlib.chdir(workplace.folder):
                result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, f"foldflat {shlex.join(arguments)}\n{result.output}"
            continue
        done = subprocess.run(
            [sys.executable, "-m", "foldflat", *arguments],
            cwd=workplace.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"foldflat {shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"


BLOCKS = blocks_of(README.read_text(encoding="utf-8")) if README.is_file() else []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Make the folder that all blocks work in."""
    folder = tmp_path_factory.mktemp("readme")
    save_tiny_folder(folder / "my-model", "distilbert", vocabulary=120)
    table, _ = planted_table(n=600, d=32, k=4, rank=6)
    np.save(folder / "table.npy", table.numpy())
    return Workplace(folder, {"__name__": "__readme__"})


@pytest.mark.skipif(not BLOCKS, reason="README.md is absent or has no block to run")
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line-{block.line}-{block.language}")
def test_a_block_of_the_readme_runs(block: Block, workplace: Workplace) -> None:
    """Each block works as written, after those above it."""
    if block.reason is not None:
        pytest.skip(block.reason)
    (run_python if block.language in PYTHON else run_shell)(block, workplace)


@pytest.mark.skipif(not TABLES_SCRIPT.is_file(), reason="experiments/readme_tables.py is absent")
def test_tables_of_the_readme_are_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table under `<!-- figures: PATH -->` is what the committed JSON at PATH gives."""
    monkeypatch.setattr(sys, "argv", [str(TABLES_SCRIPT), "--check"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = {place.stem for place in TABLES_SCRIPT.parent.iterdir()}
    try:
        runpy.run_path(str(TABLES_SCRIPT), run_name="__main__")  # which exits where a page differs
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in own]:
            del sys.modules[name]


def test_figures_of_the_docs_are_the_committed_results(tmp_path: Path) -> None:
    """Every figure in docs/figures is, byte for byte, what the committed JSON gives."""
    pytest.importorskip("matplotlib", reason="the extra [docs] is not installed")
    script = ROOT / "experiments" / "figures.py"
    subprocess.run([sys.executable, str(script), "--to", str(tmp_path)], check=True, capture_output=True)
    committed = sorted((ROOT / "docs" / "figures").iterdir())
    assert [figure.name for figure in committed] == sorted(figure.name for figure in tmp_path.iterdir())
    for figure in committed:
        assert (tmp_path / figure.name).read_bytes() == figure.read_bytes()


def test_blocks_are_found_in_order_with_their_reasons_and_commands() -> None:
    """Golden example: two languages, a reason, a block of other commands, a continued line."""
    text = (
        "# Title\n```python\nx = 1\n```\n"
        "<!-- not run: needs a download -->\n```console\n$ foldflat demo\nsome output\n```\n"
        "```bash\npip install foldflat\n```\n"
        '```bash\n$ pip list\n$ foldflat compress "my model" \\\n    -o out  # smaller\nresult\n```\n'
        "```json\n{}\n```\n"
    )
    blocks = blocks_of(text)
    assert [(block.line, block.language, block.reason) for block in blocks] == [
        (3, "python", None),
        (7, "console", "needs a download"),
        (14, "bash", None),
    ]
    assert blocks[0].code == "x = 1\n"
    assert commands_of(blocks[1].code) == [["demo"]]
    assert commands_of(blocks[2].code) == [["compress", "my model", "-o", "out"]]


def test_a_failing_block_is_reported(workplace: Workplace) -> None:
    """An exception keeps its type and its line in the README; a failed command shows what it printed."""
    with pytest.raises(ZeroDivisionError) as failure:
        run_python(Block(41, "python", "y = 2\ny / 0\n", None), workplace)
    assert failure.traceback[-1].lineno == 41  # counted from 0
    with pytest.raises(AssertionError, match=r"(?s)foldflat no-such-command.*No such command"):
        run_shell(Block(1, "console", "$ foldflat no-such-command\n", None), workplace)
