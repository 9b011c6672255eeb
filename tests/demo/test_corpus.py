"""The demo's corpus: its two splits share nothing, and the same files give the same corpus."""

from pathlib import Path

import pytest

from foldflat.demo.corpus import Corpus, CorpusSettings, build_corpus
from foldflat.errors import DataError

SMALL = CorpusSettings(n_modules=2, passage_lines=2, block_lines=4, validation_every=2, min_characters=1)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Return the corpus that the demo runs on."""
    return build_corpus()


def words(text: str) -> tuple[str, ...]:
    """Return a text's words, without punctuation and case."""
    return tuple("".join(character if character.isalnum() else " " for character in text.lower()).split())


def test_has_enough_modules_and_every_one_in_both_splits(corpus: Corpus) -> None:
    """At least 20 modules, numbered without gaps, each to be learnt and each to be asked for."""
    assert len(corpus.modules) >= 20
    labels = set(range(len(corpus.modules)))
    assert {passage.label for passage in corpus.train} == labels
    assert {passage.label for passage in corpus.validation} == labels
    assert len(corpus.validation) >= 1000


def test_shares_no_passage_between_train_and_validation(corpus: Corpus) -> None:
    """Not even one that differs in punctuation or case only."""
    train = {words(passage.text) for passage in corpus.train}
    validation = {words(passage.text) for passage in corpus.validation}
    assert not train & validation
    assert len(train) == len(corpus.train)


def test_splits_by_whole_blocks_of_lines(corpus: Corpus) -> None:
    """The lines of a block are all in train or all in validation, and blocks do not overlap."""
    train = {(passage.label, passage.block) for passage in corpus.train}
    validation = {(passage.label, passage.block) for passage in corpus.validation}
    assert not train & validation
    settings = CorpusSettings()
    for passage in (*corpus.train, *corpus.validation):
        first, last = passage.line, passage.line + len(passage.text.splitlines()) - 1
        assert first // settings.block_lines == last // settings.block_lines == passage.block


def test_follows_from_the_seed_alone(corpus: Corpus) -> None:
    """The same seed gives the same passages in the same order, another one other validation blocks."""
    assert build_corpus().fingerprint() == corpus.fingerprint()
    other = build_corpus(seed=1)
    assert {(p.label, p.block) for p in other.validation} != {(p.label, p.block) for p in corpus.validation}


def test_by_hand(tmp_path: Path) -> None:
    """Two modules of eight lines: one block of four for each split, blank lines dropped."""
    for name in ("json", "ast"):
        lines = [f"{name} line {number}\n\n" for number in range(7)]
        (tmp_path / f"{name}.py").write_text("".join([*lines, "   same   end\n"]), encoding="utf-8")
    (tmp_path / "not_of_python.py").write_text("x = 1\n" * 100, encoding="utf-8")
    (tmp_path / "_private.py").write_text("x = 1\n" * 100, encoding="utf-8")

    made = build_corpus(SMALL, root=tmp_path)

    assert made.modules == ("ast", "json")
    found = sorted((p.label, p.line, p.text) for p in (*made.train, *made.validation))
    assert [(label, line) for label, line, _ in found] == [(label, line) for label in (0, 1) for line in (0, 2, 4, 6)]
    assert found[3] == (0, 6, "ast line 6\nsame end")
    for split in (made.train, made.validation):
        assert [sum(passage.label == label for passage in split) for label in (0, 1)] == [2, 2]


def test_leaves_out_a_passage_that_was_met_before(tmp_path: Path) -> None:
    """A passage of an earlier block or module counts once, be it spaced and punctuated otherwise."""
    (tmp_path / "ast.py").write_text("one\ntwo\nthree\nfour\n# One,\ntwo\nfive\nsix\n", encoding="utf-8")
    (tmp_path / "json.py").write_text("THREE\n  four!\nseven\neight\n" * 2, encoding="utf-8")
    made = build_corpus(SMALL, root=tmp_path)
    found = sorted((p.label, p.line) for p in (*made.train, *made.validation))
    assert found == [(0, 0), (0, 2), (0, 6), (1, 2)]


def test_limits_the_passages_of_a_large_module(tmp_path: Path) -> None:
    """Those that stay are spread over the whole module."""
    for name in ("json", "ast"):
        text = "".join(f"{name} {number}\n" for number in range(80))
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    few = CorpusSettings(**{**vars(SMALL), "max_passages_per_module": 10})
    made = build_corpus(few, root=tmp_path)
    kept = sorted(passage.line for passage in (*made.train, *made.validation) if passage.label == 0)
    assert kept == list(range(0, 80, 8))


def test_an_installation_without_source_text_is_an_error(tmp_path: Path) -> None:
    """The message counts what was found."""
    (tmp_path / "json.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"needs 2 modules with source text; .* has 1"):
        build_corpus(SMALL, root=tmp_path)
