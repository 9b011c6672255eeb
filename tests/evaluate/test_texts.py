"""Texts come from every kind of file, from folders and data sets, one after another."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foldflat.errors import DataError, ModelNotFoundError, RecipeError
from foldflat.evaluate import Texts, texts

LINES = ["bafo dine", "kulo, rute", "siga"]


def write(folder: Path, columns: dict[str, list[Any]], *kinds: str) -> None:
    """Write rows to files of these kinds, named a."""
    from datasets import Dataset

    data = Dataset.from_dict(columns)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for kind in kinds:
        file = folder / f"a.{kind}"
        if kind == "txt":
            file.write_text("\ufeff" + "\n\n".join(columns["text"]) + "\n \n", encoding="utf-8")
        elif kind == "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif kind == "json":
            file.write_text(json.dumps(rows))
        else:
            with file.open("wb") as stream:
                data.to_csv(stream) if kind == "csv" else data.to_parquet(stream)


def test_every_kind_of_file_gives_the_same_texts_and_a_folder_all_of_them(tmp_path: Path) -> None:
    """Plain text without blank lines and byte-order mark, rows of four formats; what is no data is passed over."""
    kinds = ("csv", "json", "jsonl", "parquet", "txt")
    write(tmp_path, {"text": LINES, "label": [1, 2, 3]}, *kinds)
    for kind in kinds:
        found = Texts(tmp_path / f"a.{kind}")
        assert [text.strip() for text in found] == LINES, kind
        assert list(found.columns.values()) == [() if kind == "txt" else ("text",)]
    (tmp_path / "README.md").write_text("not counted")
    (tmp_path / "dataset_info.json").write_text('{"description": "not counted"}')
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.txt").write_text("not counted")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b.txt").write_text("tola")
    whole = Texts(tmp_path)
    assert [text.strip() for text in whole] == LINES * 5 + ["tola"]
    assert whole.documents == 16
    assert [Path(label).name for label in whole.columns] == [f"a.{kind}" for kind in kinds] + ["b.txt"]


def test_text_is_the_column_of_that_name_else_every_column_of_strings(tmp_path: Path) -> None:
    """A missing value is passed over; a column that is named is read alone."""
    columns = {"question": LINES, "n": [1, 2, 3], "answer": ["x", None, "z"]}
    write(tmp_path, columns, "parquet")
    found = Texts(tmp_path / "a.parquet")
    assert list(found) == [LINES[0], "x", LINES[1], LINES[2], "z"]
    assert (found.documents, list(found.columns.values())) == (3, [("question", "answer")])
    assert list(Texts(tmp_path / "a.parquet", column="answer")) == ["x", "z"]
    write(tmp_path, columns | {"text": ["u", "v", "w"]}, "parquet")
    assert list(Texts(tmp_path / "a.parquet")) == ["u", "v", "w"]


def test_reading_stops_at_the_limit_and_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts documents, rows of several texts too; no more than a piece of a line is held."""
    write(tmp_path, {"a": LINES, "b": LINES}, "parquet")
    found = Texts(tmp_path / "a.parquet", limit=2)
    assert list(found) == list(found) == [LINES[0], LINES[0], LINES[1], LINES[1]]
    assert found.documents == 2
    monkeypatch.setattr(texts, "_LONGEST_LINE", 10)
    (tmp_path / "long.txt").write_text("x" * 25)
    assert [len(text) for text in Texts(tmp_path / "long.txt")] == [10, 10, 5]


def test_a_data_set_is_named_with_its_configuration_and_split(glue_folder: Callable[..., Path]) -> None:
    """Training rows unless another split is named, read without `datasets` keeping a copy."""
    folder = glue_folder("qnli")
    found = Texts(f"{folder}:qnli")
    assert list(found) != list(Texts(f"{folder}:qnli:validation"))
    assert found.documents == 64
    assert found.columns == {f"{folder}:qnli": ("question", "sentence")}
    with pytest.raises(DataError, match=r"no split 'test' of qnli.*\n.*train, validation"):
        list(Texts(f"{folder}:qnli:test"))
    with pytest.raises(DataError, match="cannot be read as sst2"):
        list(Texts(f"{folder}:sst2"))


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("none.txt", {}, ModelNotFoundError, "no file .*none.txt.*\nhint: relative paths"),
    ("no/such/folder", {}, ModelNotFoundError, "no folder"),
    ("empty", {}, DataError, r"empty' holds none of .txt, .jsonl"),
    (
        "a.parquet",
        {"column": "c"},
        DataError,
        r"column 'c' of .*a.parquet is not there; there are n \(int\), t \(str\)",
    ),
    ("a.parquet", {"column": "n"}, DataError, "column 'n' of .* holds no text"),
    ("numbers.jsonl", {}, DataError, r"has no column of strings; there are n \(int\)"),
    ("mixed.jsonl", {}, DataError, "column 't' of .*mixed.jsonl holds 3, not a text"),
    ("plain.txt", {"column": "t"}, DataError, "plain text, which has no column 't'"),
    ("binary.txt", {}, DataError, "binary.txt is not plain text in UTF-8: it holds bytes of zero"),
    ("latin.txt", {}, DataError, "latin.txt is not plain text in UTF-8: .*0xe9"),
    ("broken.parquet", {}, DataError, "broken.parquet cannot be read: .*Parquet"),
    ("broken.jsonl", {}, DataError, "broken.jsonl cannot be read: .*JSON"),
    ("empty.csv", {}, DataError, "empty.csv cannot be read: .*No columns"),
    ("plain.txt", {"limit": 0}, RecipeError, "limit is 0 documents"),
]


@pytest.mark.parametrize(("name", "settings", "kind", "message"), BAD, ids=[f"{b[0]}-{b[3][:20]}" for b in BAD])
def test_what_cannot_be_read_says_so(
    tmp_path: Path, name: str, settings: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """Missing, empty, binary, damaged, of another encoding, without the column asked for, a limit of none."""
    write(tmp_path, {"n": [1, 2], "t": ["x", "y"]}, "parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "numbers.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "mixed.jsonl").write_text('{"t": "x"}\n{"t": 3}\n')
    (tmp_path / "plain.txt").write_text("bafo")
    (tmp_path / "binary.txt").write_bytes(b"ba\0fo")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for broken in ("broken.parquet", "broken.jsonl"):
        (tmp_path / broken).write_bytes(b"junk" * 9)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(kind, match=message):
        list(Texts(tmp_path / name, **settings))
