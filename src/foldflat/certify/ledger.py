"""A ledger of the examples that promises were made on: using them again costs confidence."""

import contextlib
import dataclasses
import hashlib
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from foldflat.errors import CheckpointError, DataError

__all__ = ["Ledger", "Spent", "example_hash"]

_TABLES = """
CREATE TABLE IF NOT EXISTS uses (
    id INTEGER PRIMARY KEY, original TEXT NOT NULL, candidate TEXT NOT NULL, outcomes INTEGER NOT NULL,
    day TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS examples (
    example BLOB NOT NULL, use INTEGER NOT NULL REFERENCES uses (id), PRIMARY KEY (example, use)
) WITHOUT ROWID;
"""
_PATIENCE = 30.0
_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Spent:
    """Hold what examples were used for before.

    Attributes:
        earlier: uses of any of them.
        choices: in how many ways those may have ended, which is how many promises somebody who knows how could
            choose from; the chance of error is to be divided by it.
    """

    earlier: int = 0
    choices: float = 1.0


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

    def spend(self, original: str, candidate: str, examples: Iterable[str], *, outcomes: int = 2) -> Spent:
        """Write a use of examples down; return what earlier ones, of any of them, it comes after.

        The same candidate on the same examples gives the same answer again, and costs nothing.

        Args:
            original: fingerprint of the model that the promise compares with.
            candidate: fingerprint of what is promised about; of a search, of all that determines it.
            examples: hashes, see `example_hash`.
            outcomes: in how many ways the use may end: 2 for one candidate, one more than there are for a sequence.

        Raises:
            DataError: no examples, or one twice.
            CheckpointError: the file cannot be written.
        """
        with self._asking(examples) as connection:
            known = _same_use(connection, original, candidate)
            spent = _spent(connection, original, before=known)
            if known is None:
                cursor = connection.execute(
                    "INSERT INTO uses (original, candidate, outcomes) VALUES (?, ?, ?)", (original, candidate, outcomes)
                )
                connection.execute("INSERT INTO examples SELECT example, ? FROM asked", (cursor.lastrowid,))
            connection.execute("DROP TABLE asked")
            connection.commit()
        return spent

    def price(self, original: str, candidate: str, examples: Iterable[str]) -> Spent:
        """Return what `spend` would, and write nothing down.

        Args and errors: as in `spend`.
        """
        with self._asking(examples) as connection:
            return _spent(connection, original, before=_same_use(connection, original, candidate))

    @contextlib.contextmanager
    def _asking(self, examples: Iterable[str]) -> Iterator[sqlite3.Connection]:
        """Open the ledger for one transaction, with the examples in a table; what is not committed is undone."""
        found = [bytes.fromhex(example)[:_BYTES] for example in examples]
        if not found or len(set(found)) < len(found):
            what = "an example stands twice in the data" if found else "no examples"
            raise DataError(f"{what}\nhint: each example once: a promise counts independent ones")
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")  # nobody writes between counting and writing
            connection.execute("CREATE TEMP TABLE asked (example BLOB PRIMARY KEY) WITHOUT ROWID")
            connection.executemany("INSERT INTO asked VALUES (?)", ((example,) for example in found))
            yield connection

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"the ledger {self.path} cannot be used: {error}\nhint: `--ledger FILE` names another")


def _same_use(connection: sqlite3.Connection, original: str, candidate: str) -> int | None:
    """Return the number of an earlier use of exactly these examples for this candidate, None for no such use."""
    row = connection.execute(
        """SELECT MIN(use.id) FROM uses use WHERE use.original = ? AND use.candidate = ?
        AND NOT EXISTS (SELECT 1 FROM asked WHERE example NOT IN (SELECT example FROM examples WHERE use = use.id))
        AND (SELECT COUNT(*) FROM examples WHERE examples.use = use.id) = (SELECT COUNT(*) FROM asked)""",
        (original, candidate),
    ).fetchone()
    return None if row[0] is None else int(row[0])


def _spent(connection: sqlite3.Connection, original: str, before: int | None) -> Spent:
    """Return what the uses of the original that share an example came to: those before one, or all."""
    outcomes = connection.execute(
        """SELECT outcomes FROM uses use WHERE use.original = ? AND (? IS NULL OR use.id < ?)
        AND EXISTS (SELECT 1 FROM asked JOIN examples USING (example) WHERE examples.use = use.id)""",
        (original, before, before),
    ).fetchall()
    return Spent(len(outcomes), float(math.prod(row[0] for row in outcomes)))


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
