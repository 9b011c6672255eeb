"""Plans for large tables in files: measured on a sample, fitted whole, followed later."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.embedding.layers import random_table
from torch import Tensor

import foldflat
from foldflat.cluster import streaming, sweep
from foldflat.cluster.distributed import Alone
from foldflat.embedding import candidates, previews, search
from foldflat.embedding.recipe import EmbeddingRecipe
from foldflat.errors import PlanMismatchError, RecipeError
from foldflat.workflow import planning, tables
from foldflat.workflow.folders import compress_folder, plan_source

N, D = 1200, 12


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a table that counts as large here."""
    for module in (streaming, tables, search, planning):
        monkeypatch.setattr(module, "SAMPLE_ROWS", 600)
        monkeypatch.setattr(module, "JUDGE_ROWS", 100)
    monkeypatch.setattr(candidates, "PREVIEW_ROWS", 300)
    monkeypatch.setattr(previews, "PREVIEW_ROWS", 300)
    monkeypatch.setattr("foldflat.embedding.fitting.MOST_BYTE_CODES", 4)
    monkeypatch.setattr(sweep, "CHUNK_ELEMENTS", 100 * D)
    save_file({"table": rows()}, tmp_path / "table.safetensors")
    return tmp_path / "table.safetensors"


def rows() -> Tensor:
    """Return rows whose directions differ in variance."""
    return random_table(N, D) * torch.logspace(0, -1, D)


@pytest.mark.parametrize(("budget", "winner"), [(16_000, "mixed"), (7_000, "subspaces bfloat16"), (20_000, "int8")])
def test_a_large_table_is_foreseen_from_a_sample_and_then_fitted_whole(
    file: Path, tmp_path: Path, budget: int, winner: str
) -> None:
    """The plan says how many rows were measured; its winner, fitted to all, keeps to the budget and to the forecast."""
    counts = np.arange(N, 0, -1)
    np.save(tmp_path / "counts.npy", counts)
    recipe = EmbeddingRecipe(budget_bytes=budget, method="auto", row_weights=str(tmp_path / "counts.npy"))
    plan, report = plan_source(str(file), recipe)
    (entry,) = plan.tables
    assert entry.winner == winner
    assert not plan.fits
    assert all(row["rows_measured"] <= 600 for row in entry.candidates)
    assert report["warnings"] == ["sizes and losses are foreseen from 600 of 1,200 rows"]
    assert {"trimmed", "trimmed int8", "trimmed int4"} <= {row["name"] for row in entry.candidates}
    read = foldflat.EmbeddingPlan.from_json(plan.to_json())
    results = [compress_folder(str(file), tmp_path / name, asked) for name, asked in (("p", read), ("d", recipe))]
    for result in results:
        assert result is not None
        (made,) = result.report["tables"]
        assert made["size_bytes_after"] == result.model.size_bytes <= budget
        assert made["weighted_energy_lost"] == pytest.approx(entry.weighted_energy_lost, rel=0.5)
        assert (made["winner"], made["reason"]) == (winner, entry.reason)
        assert result.report["recipe"]["method"] == "auto"
    weights = [(tmp_path / name / "model.foldflat.safetensors").read_bytes() for name in ("p", "d")]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "p" / "foldflat.json").read_text())["plan"]["tables"][0]["candidates"]


def test_what_is_missed_without_weights_is_said_once(file: Path, tmp_path: Path) -> None:
    """The recipe asked for and the one chosen both leave row weights out."""
    result = compress_folder(str(file), tmp_path / "out", EmbeddingRecipe(budget_bytes=16_000, method="auto"))
    assert result is not None
    assert result.report["tables"][0]["winner"] == "mixed"
    assert len(result.report["warnings"]) == 1


class _Two(Alone):
    size = 2


def test_several_processes_do_not_search_and_other_tables_are_refused(file: Path, tmp_path: Path) -> None:
    """The way out is named; a plan for another shape is an error, for other weights a warning."""
    recipe = EmbeddingRecipe(budget_bytes=7_000, method="auto")
    with pytest.raises(RecipeError, match="2 processes cannot share a search; hint: `foldflat plan` by one"):
        compress_folder(str(file), tmp_path / "out", recipe, team=_Two())
    plan, _ = plan_source(str(file), recipe)
    save_file({"table": rows()[1:]}, tmp_path / "shorter.safetensors")
    with pytest.raises(PlanMismatchError, match=r"plan is for `table` of shape \[1200, 12\], not for one of \[1199"):
        compress_folder(str(tmp_path / "shorter.safetensors"), tmp_path / "out", plan)
    save_file({"table": 2 * rows()}, tmp_path / "other.safetensors")
    result = compress_folder(str(tmp_path / "other.safetensors"), tmp_path / "out", plan)
    assert result is not None
    assert "table `table` has other weights than those the plan was made for" in result.report["warnings"]
