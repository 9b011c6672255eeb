"""Check what is read from a folder in the hub's schema, and what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldflat.errors import DataError, FoldflatError, MissingDependencyError, ModelNotFoundError, RecipeError
from foldflat.evaluate import GLUE_TASKS, load_split
from foldflat.evaluate.reading import read_split

Writer = Callable[..., Path]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("task", ["sst2", "mnli", "stsb"])
def test_a_split_becomes_model_inputs_and_labels(task: str, kind: str, glue_folder: Writer, tokenizer: Any) -> None:
    """One text, a pair and a regression: tokens as the tokenizer's own, labels as whole numbers or floats."""
    folder = glue_folder(task, kind=kind, n=6)
    rows = load_split(folder, task, tokenizer=tokenizer)
    assert rows.column_names == ["input_ids", "attention_mask", "labels"]
    expected = [5.0, 0.0] if task == "stsb" else [1, 0]
    assert sorted(set(rows["labels"]), reverse=True)[-2:] == expected
    assert rows.features["labels"].dtype == ("float32" if task == "stsb" else "int64")
    separators = [ids.count(tokenizer.sep_token_id) for ids in rows["input_ids"]]
    assert separators == [len(GLUE_TASKS[task].text_columns)] * 6


def test_texts_are_cut_and_rows_are_counted(glue_folder: Writer, tokenizer: Any) -> None:
    """The smaller of `max_length` and the tokenizer's limit holds; the first rows are kept."""
    folder = glue_folder("sst2", n=8, sentence=["bafo " * 100] * 8)
    longest = {
        length: max(map(len, load_split(folder, "sst2", tokenizer=tokenizer, max_length=length)["input_ids"]))
        for length in (10, 128)
    }
    assert longest == {10: 10, 128: tokenizer.model_max_length}
    assert len(load_split(folder, "sst2", tokenizer=tokenizer, max_examples=3)) == 3
    assert len(load_split(folder, "sst2", tokenizer=tokenizer, max_examples=300)) == 8


def test_labels_stay_with_their_rows(glue_folder: Writer, tokenizer: Any) -> None:
    """In more rows than are tokenised at once."""
    similarities = np.linspace(0, 5, 1500, dtype=np.float32).tolist()
    folder = glue_folder("stsb", n=1500, label=similarities)
    assert list(load_split(folder, "stsb", tokenizer=tokenizer)["labels"]) == similarities


def test_the_folder_stays_as_it_is_and_bars_stay_off(
    sst2: Path, tokenizer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """No cache beside the data, nothing on either stream, and the user's own bars are back afterwards."""
    import datasets

    before = sorted(sst2.rglob("*"))
    load_split(sst2, "sst2", "train", tokenizer=tokenizer)
    assert sorted(sst2.rglob("*")) == before
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [-1] * 4}, "every label is -1: they are hidden"),
        ({"label": [0, 1, 2, 3]}, "2 labels are none of sst2, the first 2 in row 2\nhint: .* from 0 to 1"),
        ({"label": [0.0, 0.5, 1.0, 1.0]}, "1 labels are none of sst2, the first 0.5 in row 1"),
        ({"label": ["good", "bad"] * 2}, "labels of sst2 have to be numbers"),
        ({"label": [0, None, 1, 1]}, "1 labels are none of sst2, the first nan in row 1"),
        ({"sentence": ["a", None, "b", "c"]}, "column 'sentence' of row 1 is None, not a text"),
    ],
)
def test_labels_and_texts_that_are_not_the_tasks_are_refused(
    change: dict[str, list[Any]], message: str, glue_folder: Writer, tokenizer: Any
) -> None:
    """The first bad row is named."""
    with pytest.raises(DataError, match=message):
        load_split(glue_folder("sst2", n=4, **change), "sst2", tokenizer=tokenizer)


def test_a_regression_has_a_range_too(glue_folder: Writer, tokenizer: Any) -> None:
    """STS-B's similarities end at 5."""
    folder = glue_folder("stsb", n=2, label=[0.0, 5.5])
    with pytest.raises(DataError, match=r"the first 5\.5 in row 1\nhint: stsb has numbers from 0 to 5"):
        load_split(folder, "stsb", tokenizer=tokenizer)


def test_label_names_in_another_order_are_refused(glue_folder: Writer, tokenizer: Any) -> None:
    """RTE's and WNLI's names are each other's reverse; their numbers would mean the opposite."""
    folder = glue_folder("wnli", n=4, named=True)
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("wnli", "rte"))
    with pytest.raises(DataError, match=r"named \['not_entailment', 'entailment'\], those of rte"):
        load_split(folder, "rte", tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("task", "asked", "error", "message"),
    [
        ("sst2", {"split": "test"}, DataError, "no split 'test' of sst2\nhint: one of train, validation"),
        ("cola", {}, DataError, "cannot be read as cola.*Available: .*sst2"),
        ("sst3", {}, RecipeError, "unknown task 'sst3'"),
        ("sst2", {"max_examples": 0}, RecipeError, "`max_examples` is 0"),
    ],
)
def test_what_the_folder_lacks_is_named(
    task: str, asked: dict[str, Any], error: type[FoldflatError], message: str, sst2: Path, tokenizer: Any
) -> None:
    """Splits and tasks that exist are listed."""
    with pytest.raises(error, match=f"(?s){message}"):
        load_split(sst2, task, tokenizer=tokenizer, **asked)


def test_a_missing_column_is_named(glue_folder: Writer, tokenizer: Any) -> None:
    """Data of another task under this task's name."""
    folder = glue_folder("sst2", n=4)
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("sst2", "mrpc"))
    with pytest.raises(DataError, match="no column 'sentence1', 'sentence2' of mrpc in sentence, label"):
        load_split(folder, "mrpc", tokenizer=tokenizer)


def test_folders_and_names_that_do_not_exist(tmp_path: Path, tokenizer: Any) -> None:
    """A path is looked for here, a name on the hub as well; a file is neither."""
    file = tmp_path / "data.csv"
    file.write_text("sentence,label\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    for source, message in (
        (tmp_path / "none", "no folder '.*none'"),
        ("./none", r"no folder './none'.*\nhint: relative paths start at"),
        (str(file), "is a file"),
        (empty, "no sst2 in '.*empty'"),
        ("owner/none", r"no sst2 in 'owner/none' \(no such folder here\)"),
    ):
        with pytest.raises(ModelNotFoundError, match=message):
            load_split(source, "sst2", tokenizer=tokenizer)


def test_a_missing_library_names_the_extra(sst2: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where only torch is installed."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r'need `datasets`.*\nhint: pip install "foldflat\[eval\]"'):
        load_split(sst2, "sst2", tokenizer=tokenizer)


def test_a_damaged_file_is_named(glue_folder: Writer, tokenizer: Any) -> None:
    """Bytes that are no Parquet."""
    folder = glue_folder("sst2", n=4)
    (folder / "validation.parquet").write_bytes(b"not a table")
    with pytest.raises(DataError, match="cannot be read as sst2"):
        load_split(folder, "sst2", tokenizer=tokenizer)


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_real_data_is_read(task: str, data_root: Path, tokenizer: Any) -> None:
    """The first 64 rows of each validation split, whose labels are in the task's range."""
    rows = load_split(data_root / "data" / "glue", task, tokenizer=tokenizer, max_examples=64)
    labels = np.asarray(rows["labels"])
    assert len(labels) == 64
    assert labels.min() >= 0
    assert labels.max() <= (5 if task == "stsb" else GLUE_TASKS[task].num_labels - 1)


def test_folders_that_look_alike_keep_their_own_rows(tmp_path: Path) -> None:
    """Of one name, with one README: each has its own, and new ones once a file is written anew."""
    from datasets import Dataset

    readme = "---\nconfigs:\n- config_name: sst2\n  data_files:\n  - split: train\n    path: rows.parquet\n---\n"

    def write(folder: Path, *sentences: str) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(readme)
        Dataset.from_dict({"sentence": sentences, "label": [0] * len(sentences)}).to_parquet(folder / "rows.parquet")
        return str(folder)

    def read(folder: str) -> list[str]:
        streamed = [row["sentence"] for row in read_split(folder, "train", "sst2", streaming=True)]
        assert streamed == read_split(folder, "train", "sst2")["sentence"][:]
        return streamed

    one = write(tmp_path / "a" / "glue", "one")
    other = write(tmp_path / "b" / "glue", "two", "three")
    assert read(one) == ["one"]
    assert read(other) == ["two", "three"]
    write(Path(one), "four")
    assert read(one) == ["four"]
