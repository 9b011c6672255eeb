"""The demo's corpus: passages of the Python standard library, labelled with the module they come from.

It is text that is present wherever Python is, so the demo needs neither a network nor a data folder.
"""

import hashlib
import random
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from foldflat.errors import DataError

__all__ = ["Corpus", "CorpusSettings", "Passage", "build_corpus", "standard_library_folder"]

# Tests, generated tables, and what some installations leave out.
_SKIPPED_FOLDERS = frozenset({"__pycache__", "test", "tests", "site-packages", "_vendor", "_bundled"})
_SKIPPED_MODULES = frozenset(
    {"antigravity", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "this", "tkinter"}
    | {"turtle", "turtledemo"}
)


@dataclass(frozen=True)
class CorpusSettings:
    """Hold what decides the corpus, apart from the installed Python.

    `n_modules` largest modules are taken, each cut into blocks of `block_lines` lines; one block of every
    `validation_every` is for validation. A passage is `passage_lines` consecutive lines of code or comment.
    """

    n_modules: int = 32
    passage_lines: int = 12
    block_lines: int = 96
    validation_every: int = 5
    max_passages_per_module: int = 300
    min_characters: int = 120


@dataclass(frozen=True)
class Passage:
    """Hold one passage: its text, its label, and where it was found (block number, first line)."""

    text: str
    label: int
    block: int
    line: int


@dataclass(frozen=True)
class Corpus:
    """Hold the two splits and the label names; passages of the two come from different blocks."""

    modules: tuple[str, ...]
    train: list[Passage] = field(repr=False)
    validation: list[Passage] = field(repr=False)

    def fingerprint(self) -> str:
        """Return the sha256 of every label and passage, in order."""
        digest = hashlib.sha256("\0".join(self.modules).encode())
        for passage in (*self.train, *self.validation):
            digest.update(f"\0{passage.label}\0{passage.text}".encode())
        return digest.hexdigest()


def standard_library_folder() -> Path:
    """Return the folder of the running Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def build_corpus(settings: CorpusSettings | None = None, *, seed: int = 0, root: Path | None = None) -> Corpus:
    """Build the corpus from the source files under `root` (default: the standard library).

    The same files, settings and seed give the same corpus. Raises DataError where `root` has fewer modules
    than asked for, as in an installation that ships compiled files only.
    """
    settings = settings or CorpusSettings()
    root = root or standard_library_folder()
    modules = _largest_modules(root, settings.n_modules)
    generator = random.Random(seed)
    seen: set[str] = set()
    train: list[Passage] = []
    validation: list[Passage] = []
    for label, files in enumerate(modules.values()):
        held_out = generator.randrange(settings.validation_every)
        found = [p for p in _passages(files, label, settings) if _is_new(p.text, seen)]
        for passage in _evenly(found, settings.max_passages_per_module):
            of_validation = passage.block % settings.validation_every == held_out
            (validation if of_validation else train).append(passage)
    generator.shuffle(train)
    return Corpus(tuple(modules), train, validation)


def _largest_modules(root: Path, count: int) -> dict[str, list[Path]]:
    """Return the `count` modules with most source text, by name, each with its files in order."""
    sized = []
    for entry in sorted(root.iterdir()):
        files = _source_files(entry)
        size = sum(path.stat().st_size for path in files)
        if size:
            sized.append((-size, entry.stem, files))
    if len(sized) < count:
        raise DataError(
            f"the demo needs {count} modules with source text; {str(root)!r} has {len(sized)}\n"
            "hint: run it with a Python whose standard library is installed as .py files"
        )
    return {name: files for _, name, files in sorted(sorted(sized)[:count], key=lambda item: item[1])}


def _source_files(entry: Path) -> list[Path]:
    """Return a module's files; none for what is not a public module of the standard library."""
    name = entry.stem
    if name.startswith("_") or name in _SKIPPED_MODULES or name not in sys.stdlib_module_names:
        return []
    if entry.is_file():
        return [entry] if entry.suffix == ".py" else []
    files = (path for path in entry.rglob("*.py") if path.is_file())
    return sorted(path for path in files if not _SKIPPED_FOLDERS & set(path.relative_to(entry).parts))


def _passages(files: list[Path], label: int, settings: CorpusSettings) -> Iterator[Passage]:
    """Yield passages that never cross a block's end, so no line is in two blocks."""
    lines = [line for path in files for line in _lines(path)]
    for line in range(0, len(lines), settings.block_lines):
        block = lines[line : line + settings.block_lines]
        for start in range(0, len(block), settings.passage_lines):
            text = "\n".join(block[start : start + settings.passage_lines])
            if len(text) >= settings.min_characters:
                yield Passage(text, label, line // settings.block_lines, line + start)


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _is_new(text: str, seen: set[str]) -> bool:
    """Tell whether no passage with the same words was seen in any module, and remember this one."""
    key = re.sub(r"\W+", " ", text).strip().lower()
    if key in seen:
        return False
    seen.add(key)
    return True


def _evenly(passages: list[Passage], limit: int) -> list[Passage]:
    """Keep at most `limit` passages, spread over the whole module."""
    step = max(1.0, len(passages) / limit)
    return [passages[int(i * step)] for i in range(min(limit, len(passages)))]
