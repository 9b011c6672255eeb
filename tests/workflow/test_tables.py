"""Large tables in files: read in pieces, on several processes, through a kill, and never more than asked."""

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.cluster.test_streaming import ThreadTeam
from tests.tiny import planted_table
from torch import Tensor

import foldflat
from foldflat.cluster import streaming, sweep
from foldflat.cluster.distributed import Alone
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import CheckpointError, DataError, ModelNotFoundError, RecipeError, TargetExistsError
from foldflat.workflow import tables
from foldflat.workflow.folders import compress_folder
from foldflat.workflow.table_files import open_rows

N, D = 600, 12
ROOT = Path(__file__).parents[2]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Return a table that counts as large here."""
    for module in (streaming, tables):
        monkeypatch.setattr(module, "SAMPLE_ROWS", 200)
        monkeypatch.setattr(module, "JUDGE_ROWS", 100)
    monkeypatch.setattr(sweep, "CHUNK_ELEMENTS", 100 * D)
    return planted_table(N, D, 3, 3, noise=0.05)[0]


def written(folder: Path, rows: Tensor) -> Path:
    """Save a table as one file."""
    file = folder / "table.safetensors"
    save_file({"table": rows}, file)
    return file


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_file_becomes_a_folder_that_holds_what_the_report_says(
    tmp_path: Path, rows: Tensor, dtype: torch.dtype
) -> None:
    """Rows of every type come back from disk with the reported error and bytes, within the budget."""
    file = written(tmp_path, rows.to(dtype))
    result = compress_folder(str(file), tmp_path / "out", EmbeddingRecipe(keep_ratio=0.4))
    assert result is not None
    loaded = foldflat.load(tmp_path / "out")
    original = rows.to(dtype).double()
    rebuilt = loaded.to_dense()
    lost = float((original - rebuilt.double()).square().sum() / original.square().sum())
    (table,) = result.report["tables"]
    assert rebuilt.dtype == dtype
    # the error is measured before rows are rounded to the type of the table
    assert table["energy_lost"] == pytest.approx(lost, rel=0.02 if dtype == torch.bfloat16 else 1e-3)
    assert table["energy_lost"] < 0.5 * compress_error(file, tmp_path)
    assert table["parameters_after"] <= 0.4 * N * D
    assert table["size_bytes_after"] == loaded.size_bytes
    assert set(table["rivals"]) == {"int8", "int4"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") or "checkpoint" in path.name]


def compress_error(file: Path, folder: Path) -> float:
    """Return what the SVD loses at the same budget."""
    result = compress_folder(str(file), folder / "svd", EmbeddingRecipe(keep_ratio=0.4, method="svd"), overwrite=True)
    assert result is not None
    return float(result.report["tables"][0]["energy_lost"])


@pytest.mark.parametrize("kind", ["safetensors", "npy"])
def test_files_that_match_a_pattern_are_one_table(tmp_path: Path, rows: Tensor, kind: str) -> None:
    """Shards in the order of their names give the same bits as the whole."""
    for i, part in enumerate(rows.split(250)):
        if kind == "npy":
            np.save(tmp_path / f"part-{i}.npy", part.numpy())
        else:
            save_file({"table": part.contiguous()}, tmp_path / f"part-{i}.safetensors")
    recipe = EmbeddingRecipe(keep_ratio=0.4)
    compress_folder(str(tmp_path / f"part-*.{kind}"), tmp_path / "parts", recipe)
    compress_folder(str(written(tmp_path, rows)), tmp_path / "whole", recipe)
    weights = [(tmp_path / name / "model.foldflat.safetensors").read_bytes() for name in ("parts", "whole")]
    assert weights[0] == weights[1]


def test_row_weights_reach_every_chunk(tmp_path: Path, rows: Tensor) -> None:
    """Heavy rows lose less than without weights, and the weighted error is that of the weights."""
    weights = np.ones(N)
    weights[:100] = 100
    file = written(tmp_path, rows * torch.rand(N, 1, generator=torch.Generator().manual_seed(0)))
    dense = {}
    for name, given in (("plain", None), ("weighted", weights)):
        result = compress_folder(str(file), tmp_path / name, EmbeddingRecipe(keep_ratio=0.35, row_weights=given))
        assert result is not None
        dense[name] = (foldflat.load(tmp_path / name).to_dense() - open_rows(str(file))[:N]).square().sum(1)
    assert dense["weighted"][:100].sum() < dense["plain"][:100].sum()
    energy = open_rows(str(file))[:N].square().sum(1)
    expected = float(
        torch.from_numpy(weights) @ dense["weighted"].double() / (torch.from_numpy(weights) @ energy.double())
    )
    assert result.report["tables"][0]["weighted_energy_lost"] == pytest.approx(expected, rel=1e-3)


def test_what_cannot_be_done_says_so_and_leaves_nothing(tmp_path: Path, rows: Tensor) -> None:
    """Infinite numbers, an existing target, weights of another length, a pattern without files, other shards."""
    recipe = EmbeddingRecipe(keep_ratio=0.4)
    bad = rows.clone()
    bad[333, 2] = torch.inf
    file = written(tmp_path, bad)
    with pytest.raises(DataError, match=r"inf in row 333 of 600"):
        compress_folder(str(file), tmp_path / "out", recipe)
    written(tmp_path, rows)
    with pytest.raises(DataError, match=r"shape \(5,\), but table `table` has 600 rows"):
        compress_folder(str(file), tmp_path / "out", EmbeddingRecipe(keep_ratio=0.4, row_weights=np.ones(5)))
    with pytest.raises(ModelNotFoundError, match="no file matches"):
        compress_folder(str(tmp_path / "x-*.npy"), tmp_path / "out", recipe)
    np.save(tmp_path / "y-0.npy", np.zeros((4, 3), np.float32))
    np.save(tmp_path / "y-1.npy", np.zeros((4, 2), np.float32))
    with pytest.raises(DataError, match=r"y-1.npy has rows of 2 .*y-0.npy of 3"):
        compress_folder(str(tmp_path / "y-*.npy"), tmp_path / "out", recipe)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("mine")
    with pytest.raises(TargetExistsError, match="not empty"):
        compress_folder(str(file), tmp_path / "full", recipe)
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_coefficients_too_large_for_their_type_are_refused(tmp_path: Path, rows: Tensor) -> None:
    """Rows that float16 holds may have coefficients that it does not: an error, not infinities."""
    file = written(tmp_path, (rows / rows.abs().max() * 60_000).half())
    with pytest.raises(DataError, match=r"do not fit into torch.float16; hint: coefficients='float32'"):
        compress_folder(str(file), tmp_path / "out", EmbeddingRecipe(keep_ratio=0.4))
    result = compress_folder(str(file), tmp_path / "out", EmbeddingRecipe(keep_ratio=0.4, coefficients="float32"))
    assert result is not None
    assert result.report["tables"][0]["energy_lost"] < 0.2


def test_a_full_disk_is_an_error_that_keeps_the_fit(
    tmp_path: Path, rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the coefficients find no space the message says so, and the same command goes on from the checkpoint."""
    file = written(tmp_path, rows)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(CheckpointError, match=r"No space left .* kept in its checkpoint"):
            compress_folder(str(file), tmp_path / "deep" / "out", EmbeddingRecipe(keep_ratio=0.4))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.checkpoint.safetensors"]
    monkeypatch.setattr(streaming, "choose_subspaces", None)
    compress_folder(str(file), tmp_path / "deep" / "out", EmbeddingRecipe(keep_ratio=0.4))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


class _Two(Alone):
    size = 2


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (EmbeddingRecipe(method="int8"), "2 processes cannot share method 'int8'"),
        (EmbeddingRecipe(max_error=0.1), "2 processes cannot share method 'subspaces' with `max_error`"),
        (EmbeddingRecipe(coefficients="int4"), 'with `coefficients` "int4"; hint: .* "bfloat16"'),
    ],
)
def test_processes_share_only_what_can_be_shared(
    tmp_path: Path, rows: Tensor, recipe: EmbeddingRecipe, message: str
) -> None:
    """Integers and a search for the error are for one process; so are models in folders."""
    with pytest.raises(RecipeError, match=message):
        compress_folder(str(written(tmp_path, rows)), tmp_path / "out", recipe, team=_Two())
    with pytest.raises(RecipeError, match="2 processes cannot share"):
        compress_folder(str(tmp_path), tmp_path / "out", EmbeddingRecipe(), team=_Two())


@pytest.mark.parametrize("size", [4, 5, 7])
def test_ranks_with_unequal_numbers_of_chunks_encode_every_row(tmp_path: Path, rows: Tensor, size: int) -> None:
    """Six chunks on 4, 5 and 7 ranks, some of which run out of rows first: each row comes back where it was."""
    file = written(tmp_path, rows[:550])
    recipe = EmbeddingRecipe(keep_ratio=0.4)
    alone = compress_folder(str(file), tmp_path / "alone", recipe)
    barrier, board, results = threading.Barrier(size, timeout=60), [None] * size, {}

    def work(rank: int) -> None:
        team = ThreadTeam(rank, barrier, board)
        results[rank] = compress_folder(str(file), tmp_path / "shared", recipe, team=team)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone is not None
    assert [rank for rank, result in results.items() if result is not None] == [0]
    lost = (foldflat.load(tmp_path / "shared").to_dense() - rows[:550]).square().sum() / rows[:550].square().sum()
    assert float(lost) == pytest.approx(results[0].report["tables"][0]["energy_lost"], rel=1e-4)
    assert float(lost) == pytest.approx(alone.report["tables"][0]["energy_lost"], rel=1e-4)


def test_equal_rows_need_no_more_subspaces_than_differ(tmp_path: Path, rows: Tensor) -> None:
    """A table of one row many times and a given k is no error, and comes back exactly."""
    file = written(tmp_path, rows[:1].repeat(N, 1))
    result = compress_folder(str(file), tmp_path / "out", EmbeddingRecipe(keep_ratio=0.5, n_subspaces=3))
    assert result is not None
    torch.testing.assert_close(foldflat.load(tmp_path / "out").to_dense(), rows[:1].repeat(N, 1))
