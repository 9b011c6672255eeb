"""Tokens are counted as the model's own tokenizer reads them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_tokenizer

from foldflat.errors import DataError, RecipeError
from foldflat.evaluate import Texts, count_tokens, load_tokenizer, tokenizer_in

SENTENCES = ["bafo dine", "", "kulo a b c", "dine " * 90]


def one_by_one(texts: list[str], tokenizer: Any) -> Counter[int]:
    """Count tokens the slow way."""
    return Counter(i for text in texts for i in tokenizer(text)["input_ids"])


def as_dict(counts: torch.Tensor) -> dict[int, int]:
    """Return id -> count of what occurs."""
    return {int(i): int(counts[i]) for i in counts.nonzero()[:, 0]}


def test_counts_are_those_of_every_text_by_itself(tokenizer: Any, masked_lm: Path) -> None:
    """Special tokens count, padding does not, no text is cut, and batches change nothing."""
    texts = [f"{sentence} {'ba' * (i % 5)}" for i in range(350) for sentence in SENTENCES]
    found = count_tokens(iter(texts), masked_lm)
    assert as_dict(found.counts) == one_by_one(texts, tokenizer)
    assert found.counts[tokenizer.cls_token_id] == len(texts) == found.texts
    assert found.counts[tokenizer.pad_token_id] == 0
    assert len(found.counts) == 120
    assert found.tokens > 350 * tokenizer.model_max_length


def test_progress_is_told_for_every_batch(tokenizer: Any) -> None:
    """A long count says how far it is."""
    lines: list[str] = []
    count_tokens(["bafo"] * 2500, tokenizer, watch=lines.append)
    assert len(lines) == 3
    assert lines[1].endswith("in 2,000 texts")


def test_text_without_tokens_is_refused_and_unknown_ones_are_told(tokenizer: Any) -> None:
    """Nothing, blanks, one string, numbers, another script; half of it unknown is a warning."""
    cases: list[tuple[Any, type[Exception], str]] = [
        ([], DataError, "0 texts hold no token"),
        (["", "  "], DataError, "2 texts hold no token.*right column"),
        ("bafo", RecipeError, "`texts` is one string"),
        (["bafo", 3], DataError, "a text is 3"),
        (["私", "我"], DataError, r"all 2 tokens are \[UNK\]"),
    ]
    for given, kind, message in cases:
        with pytest.raises(kind, match=message):
            count_tokens(given, tokenizer)
    mostly = count_tokens(["私 我 a"], tokenizer)
    assert mostly.unknown_share == pytest.approx(2 / 3)
    (warning,) = mostly.warnings(120, "t")
    assert "67% of the tokens counted are unknown" in warning
    assert not count_tokens(["私 a b"], tokenizer).warnings(120, "t")


def test_a_tokenizer_is_found_in_a_folder_without_a_model(tmp_path: Path, masked_lm: Path) -> None:
    """tokenizer.json alone, as transformers saves it, and a bare vocab.txt, lower-cased where it has no capitals."""
    expected = one_by_one(SENTENCES, tiny_tokenizer())
    (tmp_path / "tokenizer.json").write_bytes((masked_lm / "tokenizer.json").read_bytes())
    alone = tokenizer_in(tmp_path)
    assert as_dict(count_tokens(SENTENCES, alone).counts) == expected
    assert count_tokens(["私 a"], alone).unknown_share == 0.5
    for name, words, ids in (("lower", ["bafo"], [4, 4]), ("cased", ["Bafo"], [4, 1])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
        assert tokenizer_in(folder)("Bafo bafo", add_special_tokens=False)["input_ids"] == ids
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no tokenizer \(tokenizer.json, vocab.txt\); hint: .*`--tokenizer`"):
        tokenizer_in(tmp_path / "empty")


def test_real_sentences_are_counted_as_one_by_one(data_root: Path) -> None:
    """Of a trained tokenizer on SST-2; the twin on generated data is the first test."""
    texts = Texts(f"{data_root / 'data' / 'glue'}:sst2:validation")
    tokenizer = load_tokenizer(data_root / "models" / "minibert")
    found = count_tokens(texts, tokenizer)
    assert found.texts == 872
    assert as_dict(found.counts) == one_by_one(list(texts), tokenizer)
    assert found.unknown_share < 0.01
