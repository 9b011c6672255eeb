"""The ledger: what counts as used, what does not, for several processes and across interruptions."""

import os
import sqlite3
from pathlib import Path

import pytest
from tests.processes import in_new_process

from foldflat.certify import Ledger, Spent, example_hash
from foldflat.errors import CheckpointError, DataError


def examples(*numbers: int) -> list[str]:
    """Return the hashes of made-up examples."""
    return [example_hash(str(number)) for number in numbers]


def test_every_further_candidate_comes_after_one_more_use(tmp_path: Path) -> None:
    """Overlap counts, not equality; other originals and other examples do not; asking again costs nothing."""
    ledger = Ledger(tmp_path / "state" / "ledger.sqlite")

    def earlier(original: str, candidate: str, *numbers: int) -> int:
        return ledger.spend(original, candidate, examples(*numbers)).earlier

    assert earlier("original", "a", 1, 2, 3) == 0
    assert earlier("original", "b", 3, 4) == 1
    assert earlier("original", "c", 3, 1) == 2
    assert earlier("original", "c", 2, 5) == 1
    assert earlier("other", "a", 1, 2, 3) == 0
    assert earlier("original", "d", 6, 7) == 0
    ledger = Ledger(tmp_path / "state" / "ledger.sqlite")
    assert earlier("original", "b", 4, 3) == 1
    assert earlier("original", "b", 3) == 3
    assert earlier("original", "a", 3, 2, 1) == 0
    assert earlier("original", "e", 7, 4) == 2, "uses of different examples add up"


def test_a_search_leaves_more_to_choose_from(tmp_path: Path) -> None:
    """Three ways for two candidates in turn, two for one: six for whoever comes next."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert ledger.spend("original", "search", examples(1, 2), outcomes=3) == Spent(0, 1)
    assert ledger.spend("original", "a", examples(2)) == Spent(1, 3)
    assert ledger.spend("original", "b", examples(2, 3)) == Spent(2, 6)
    assert ledger.spend("original", "search", examples(2, 1), outcomes=3) == Spent(0, 1)


def test_only_hashes_are_kept(tmp_path: Path) -> None:
    """The text of an example is not in the file; parts are kept apart."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.spend("original", "a", [example_hash("a secret sentence", "another")])
    assert b"secret" not in ledger.path.read_bytes()
    assert example_hash("ab", "c") != example_hash("a", "bc")
    assert example_hash("ab", b"c") == example_hash(b"ab", "c")


def test_several_processes_count_together(tmp_path: Path) -> None:
    """Eight at once, each a candidate of its own: every number of earlier uses comes once."""
    code = """
import os, sys
from foldflat.certify import Ledger, example_hash
found = []
for i in range(8):
    read, write = os.pipe()
    if not os.fork():
        spent = Ledger(sys.argv[1]).spend("original", str(i), [example_hash("one")])
        os.write(write, bytes([spent.earlier]))
        os._exit(0)
    found.append(read)
assert sorted(os.read(one, 1)[0] for one in found) == list(range(8))
"""
    in_new_process(code, tmp_path / "ledger.sqlite")


def test_what_cannot_be_spent_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No examples, one twice, a file that is no ledger; by default it lies in the user's state folder."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(DataError, match="no examples"):
        ledger.spend("original", "a", [])
    with pytest.raises(DataError, match="an example stands twice"):
        ledger.spend("original", "a", examples(1, 1))
    assert ledger.spend("original", "a", examples(1)).earlier == 0
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(CheckpointError, match=r"ledger .*text cannot be used: .*not a database\nhint: `--ledger FILE`"):
        Ledger(tmp_path / "text")
    with pytest.raises(CheckpointError, match="cannot be used"):
        Ledger(tmp_path / "text" / "below")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert Ledger().path == tmp_path / "state" / "foldflat" / "ledger.sqlite"
    assert os.access(Ledger().path, os.R_OK)
    with sqlite3.connect(ledger.path) as connection:
        assert connection.execute("SELECT original, candidate FROM uses").fetchall() == [("original", "a")]
    connection.close()
