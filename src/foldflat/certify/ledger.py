"""A ledger of the examples that promises were made on: using them again costs confidence."""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from foldflat.errors import CheckpointError, DataError

__all__ = ["Ledger", "example_hash"]

_TABLES = """
CREATE TABLE IF NOT EXISTS uses (
    id INTEGER PRIMARY KEY, original TEXT NOT NULL, candidate TEXT NOT NULL, day TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS examples (
    example BLOB NOT NULL, use INTEGER NOT NULL REFERENCES uses (id), PRIMARY KEY (example, use)
) WITHOUT ROWID;
"""
_PATIENCE = 30.0
_BYTES = 16


class Ledger:
    """Count how often examples were spent on promises about one original model. Holds hashes only.

    Safe for several processes at once. A use is written down before anything is measured, so that a run that is
    interrupted after it saw the data has spent them.

    Args:
        path: SQLite file, made where it is missing; default `foldflat/ledger.sqlite` in the user's state folder
            ($XDG_STATE_HOME, or ~/.local/state).

    Raises:
        CheckpointError: it cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = _default_path() if path is None else Path(path).expanduser()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        with self._open() as connection:
            connection.executescript(_TABLES)

    def spend(self, original: str, candidate: str, examples: Iterable[str]) -> int:
        """Write a use of examples down; return how many earlier ones, of any of them, it comes after.

        The same candidate on the same examples gives the same answer again, and costs nothing.

        Args:
            original: fingerprint of the model that the promise compares with.
            candidate: fingerprint of what is promised about.
            examples: hashes, see `example_hash`.

        Raises:
            DataError: no examples, or one twice.
            CheckpointError: the file cannot be written.
        """
        found = [bytes.fromhex(example)[:_BYTES] for example in examples]
        if not found or len(set(found)) < len(found):
            what = "an example stands twice in the data" if found else "no examples"
            raise DataError(f"{what}\nhint: each example once: a promise counts independent ones")
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")  # nobody writes between counting and writing
            connection.execute("CREATE TEMP TABLE asked (example BLOB PRIMARY KEY) WITHOUT ROWID")
            connection.executemany("INSERT INTO asked VALUES (?)", ((example,) for example in found))
            earlier = _earlier(connection, original, candidate)
            if earlier is not None:
                connection.rollback()
                return earlier
            count = _most_uses(connection, original)
            cursor = connection.execute("INSERT INTO uses (original, candidate) VALUES (?, ?)", (original, candidate))
            connection.execute("INSERT INTO examples SELECT example, ? FROM asked", (cursor.lastrowid,))
            connection.execute("DROP TABLE asked")
            connection.commit()
        return count

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"the ledger {self.path} cannot be used: {error}\nhint: `--ledger FILE` names another")


def _earlier(connection: sqlite3.Connection, original: str, candidate: str) -> int | None:
    """Return what an earlier use of exactly these examples for this candidate came after, None for no such use."""
    row = connection.execute(
        """SELECT MIN(use.id) FROM uses use WHERE use.original = ? AND use.candidate = ?
        AND NOT EXISTS (SELECT 1 FROM asked WHERE example NOT IN (SELECT example FROM examples WHERE use = use.id))
        AND (SELECT COUNT(*) FROM examples WHERE examples.use = use.id) = (SELECT COUNT(*) FROM asked)""",
        (original, candidate),
    ).fetchone()
    return None if row[0] is None else _most_uses(connection, original, before=row[0])


def _most_uses(connection: sqlite3.Connection, original: str, before: int | None = None) -> int:
    """Return how often the example that was used most was, in uses of the original before one, or in all."""
    row = connection.execute(
        """SELECT MAX(times) FROM (
            SELECT COUNT(*) AS times FROM asked JOIN examples USING (example) JOIN uses ON uses.id = examples.use
            WHERE uses.original = ? AND (? IS NULL OR uses.id < ?) GROUP BY example
        )""",
        (original, before, before),
    ).fetchone()
    return int(row[0] or 0)


def example_hash(*parts: str | bytes) -> str:
    """Return the SHA-256 of an example, in hexadecimal: its texts, or the bytes of an image."""
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode()
        digest.update(len(content).to_bytes(8, "little"))  # ("ab", "c") is not ("a", "bc")
        digest.update(content)
    return digest.hexdigest()


def _default_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "foldflat" / "ledger.sqlite"
