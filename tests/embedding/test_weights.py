"""Check where row weights come from."""

import json
from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldflat.embedding.weights import TokenCounts, resolve_row_weights, weights_and_counts
from foldflat.errors import DataError, ModelNotFoundError, RecipeError

IDS = torch.tensor([[1, 1, 3], [2, 0, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
VOCABULARY = {"a": 0, "b": 1, "c": 2}


def test_numbers_are_used_as_they_are() -> None:
    """Tensors, arrays and lists alike; only zeros are lifted, to a millionth of the largest."""
    for given in (torch.tensor([1.0, 4.0, 0.0]), np.array([1.0, 4.0, 0.0]), [1.0, 4.0, 0.0]):
        weights = resolve_row_weights(given, 3, name="t")  # type: ignore[arg-type]
        assert weights is not None
        assert weights.dtype == torch.float64
        assert weights.tolist() == [1.0, 4.0, 4e-6]
    assert resolve_row_weights(None, 3, name="t") is None


def test_counts_are_raised_to_the_power_of_one_half(tmp_path: Path) -> None:
    """From .npy by row, from .json by token; a token that never occurs counts once, as the rarest among shares."""
    np.save(tmp_path / "counts.npy", np.array([16, 9, 0]))
    (tmp_path / "counts.json").write_text(json.dumps({"a": 16, "b": 9, "elsewhere": 5}))
    np.save(tmp_path / "shares.npy", np.array([0.64, 0.36, 0.0]))
    for name, expected in (
        ("counts.npy", [4.0, 3.0, 1.0]),
        ("counts.json", [4.0, 3.0, 1.0]),
        ("shares.npy", [0.8, 0.6, 0.6]),
    ):
        weights = resolve_row_weights(str(tmp_path / name), 3, name="t", vocabulary=VOCABULARY)
        assert weights is not None
        torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("calibration", "counts"),
    [
        (IDS, [2, 2, 1, 1]),
        ([IDS, IDS[:1]], [2, 4, 1, 2]),
        ({"input_ids": IDS, "attention_mask": MASK}, [0, 2, 1, 1]),
        ([{"input_ids": IDS}, {"input_ids": IDS, "attention_mask": MASK}], [2, 4, 2, 2]),
        (UserDict(input_ids=IDS, attention_mask=MASK), [0, 2, 1, 1]),  # what tokenizers return
        (iter([IDS.numpy()]), [2, 2, 1, 1]),
    ],
)
def test_tokens_are_counted_where_they_are_not_masked(calibration: Any, counts: list[int]) -> None:
    """One batch or several, tensors or dicts; padding under the mask does not count, and the unseen count once."""
    if not isinstance(calibration, torch.Tensor | dict | UserDict | list):
        calibration = [torch.from_numpy(batch) for batch in calibration]
    weights = resolve_row_weights("auto", 4, name="t", calibration=calibration)
    assert weights is not None
    expected = torch.tensor(counts, dtype=torch.float64).clamp_min(1).sqrt()
    torch.testing.assert_close(weights, expected)


def test_counted_tokens_fit_a_table_with_rows_to_spare() -> None:
    """Rows beyond the vocabulary count once, as those never seen do; no row weighs a thousand times another."""
    for most, expected in ((10**4, [3.0, 1.0, 1e2, 1.0]), (10**8, [10.0, 10.0, 1e4, 10.0])):
        weights = resolve_row_weights("auto", 4, name="t", calibration=TokenCounts(torch.tensor([9, 0, most])))
        assert weights is not None
        assert weights.tolist() == expected
    assert not TokenCounts(torch.ones(95)).warnings(100, "t")
    assert "has 50 tokens, table `t` 100 rows" in TokenCounts(torch.ones(50)).warnings(100, "t")[0]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64", "int32", "float16"])
def test_counts_of_any_type_of_number_are_read(tmp_path: Path, kind: str) -> None:
    """Unsigned integers among them, which torch can hardly compute with."""
    np.save(tmp_path / "counts.npy", np.array([4, 0, 9]).astype(kind))
    weights, counts = weights_and_counts(str(tmp_path / "counts.npy"), 3, name="t")
    assert weights is not None
    assert counts is not None
    assert (weights.tolist(), counts.tolist()) == ([2, 1, 3], [4, 0, 9])


def test_a_counted_token_beyond_the_table_is_refused(tmp_path: Path) -> None:
    """A vocabulary may have tokens that the table has no row for."""
    (tmp_path / "counts.json").write_text('{"a": 1, "z": 5}', encoding="utf-8")
    with pytest.raises(DataError, match=r"counts 'z', which is row 9, but table `t` has 4 rows"):
        weights_and_counts(str(tmp_path / "counts.json"), 4, name="t", vocabulary={"a": 0, "z": 9})


def test_weights_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    """Wrong length, not finite, negative, all zero, of unknown tokens, of no file; each says which table."""
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (torch.ones(4), {}, DataError, r"row weights have shape \(4,\), but table `t` has 3 rows"),
        (torch.ones(3, 1), {}, DataError, r"row weights have shape \(3, 1\)"),
        (torch.tensor([1.0, torch.nan, 1.0]), {}, DataError, "row weights of table `t` must be finite"),
        (torch.tensor([1.0, -1.0, 1.0]), {}, DataError, "row weights of table `t` must be finite and at least 0"),
        (torch.zeros(3), {}, DataError, "row weights of table `t` are all zero"),
        ("auto", {}, RecipeError, '`row_weights` is "auto".*give `calibration`.*`--text`'),
        ("auto", {"calibration": IDS}, DataError, "ids from 0 to 3, but table `t` has 3 rows"),
        ("auto", {"calibration": IDS - 1}, DataError, "ids from -1 to 2"),
        (
            "auto",
            {"calibration": TokenCounts(torch.ones(4))},
            DataError,
            "1 tokens whose id is 3 or more.*another model",
        ),
        (str(tmp_path / "junk.npy"), {}, DataError, "junk.npy' holds no counts"),
        (str(tmp_path / "junk.json"), {"vocabulary": VOCABULARY}, DataError, "junk.json' is not JSON"),
        (str(tmp_path / "list.json"), {"vocabulary": VOCABULARY}, DataError, "list.json' is not token -> count"),
        (str(tmp_path / "none.npy"), {}, ModelNotFoundError, "none.npy' does not exist"),
        (str(tmp_path / "counts.txt"), {}, RecipeError, r"counts.txt' is neither .npy nor .json"),
        (str(tmp_path / "counts.json"), {}, RecipeError, "the model has no tokenizer"),
        (str(tmp_path / "counts.json"), {"vocabulary": {"z": 0}}, DataError, "none of the 1 tokens in"),
    ]
    (tmp_path / "counts.txt").write_text("1")
    (tmp_path / "list.json").write_text('["a"]')
    for name in ("junk.npy", "junk.json"):
        (tmp_path / name).write_text("junk")
    (tmp_path / "counts.json").write_text('{"a": 1}')
    for given, more, kind, message in cases:
        with pytest.raises(kind, match=message):
            resolve_row_weights(given, 3, name="t", **more)
