"""Tables read chunk by chunk: the same subspaces in any pieces, on any number of ranks, from any interruption."""

import copy
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cluster.oracle import residual_cost
from tests.tiny import planted_table
from torch import Tensor

from foldflat.cluster import streaming, sweep
from foldflat.cluster.resume import Checkpoint
from foldflat.cluster.source import RowSource, ShardedRows
from foldflat.cluster.streaming import StreamedFit, fit_source
from foldflat.cluster.trials import SearchSettings
from foldflat.errors import BudgetError, CheckpointError, DataError, FoldflatError, FormatVersionError, RecipeError

N, D = 900, 16


class ThreadTeam:
    """Add up over threads of this process, in rank order."""

    def __init__(self, rank: int, barrier: threading.Barrier, board: list[Any]) -> None:
        """Take a rank; `barrier` and `board` are shared by all."""
        self.rank, self.size, self._barrier, self._board = rank, len(board), barrier, board

    def _gathered(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self._barrier.wait()
        values = list(self._board)
        self._barrier.wait()
        return values

    def total(self, numbers: Tensor) -> Tensor:
        """Return the sum over all ranks."""
        values = self._gathered(numbers.clone())
        return torch.stack(values).sum(0)

    def from_first(self, value: Any) -> Any:
        """Return what rank 0 passes."""
        return copy.deepcopy(self._gathered(value)[0])

    def agree(self, fingerprint: str) -> None:
        """Raise RecipeError unless all pass the same."""
        if len(set(self._gathered(fingerprint))) > 1:
            raise RecipeError(f"ranks differ: {fingerprint}")

    def rows_to_first(self, block: Tensor) -> Iterator[Tensor]:
        """Yield the block of each rank on rank 0."""
        values = self._gathered(block)
        yield from values if self.rank == 0 else []


def on_ranks(parts: list[Tensor], settings: list[SearchSettings], **options: Any) -> list[StreamedFit | Exception]:
    """Fit the parts of a table on a thread each."""
    size = len(parts)
    barrier, board, results = threading.Barrier(size, timeout=60), [None] * size, [None] * size

    def work(rank: int) -> None:
        team = ThreadTeam(rank, barrier, board)
        try:
            results[rank] = fit_source(parts[rank], None, settings[rank], team=team, **options)
        except FoldflatError as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SAMPLE_ROWS", 300)
    monkeypatch.setattr(streaming, "JUDGE_ROWS", 100)
    monkeypatch.setattr(sweep, "CHUNK_ELEMENTS", 128 * D)


@pytest.fixture(scope="module")
def table() -> Tensor:
    """Return rows near four subspaces, of unequal length."""
    rows = planted_table(N, D, 4, 3, noise=0.05)[0]
    return rows * torch.linspace(0.2, 3, N)[torch.randperm(N, generator=torch.Generator().manual_seed(1)), None]


@pytest.fixture
def settings(table: Tensor) -> SearchSettings:
    """Return a budget of 30 % and a tolerance that no pass meets."""
    return SearchSettings(0.3 * table.numel(), max_subspaces=8, tol=0.0)


def cost(table: Tensor, labels: Tensor, found: StreamedFit) -> float:
    """Return the squared distances of all rows, from residuals."""
    return residual_cost(table.numpy(), labels.numpy(), [basis.numpy() for basis in found.bases])


def spent(labels: Tensor, found: StreamedFit) -> int:
    """Count coefficients row by row, and each basis once."""
    ranks = torch.tensor([len(basis) for basis in found.bases])
    longest = {
        group: max(int(r) for r, g in zip(ranks, found.groups, strict=True) if g == group) for group in found.groups
    }
    return int(ranks[labels.long()].sum()) + D * sum(longest.values())


@pytest.mark.parametrize("free", [True, False], ids=["free", "equal"])
def test_passes_lower_the_cost_within_the_budget(table: Tensor, settings: SearchSettings, free: bool) -> None:
    """Costs at one multiplier fall; nearly all of the budget is spent and no more; the SVD loses twice as much."""
    asked = replace(settings, free=free)
    found = fit_source(table, None, asked)
    assert all(after <= before * (1 + 1e-6) for before, after in zip(found.costs, found.costs[1:], strict=False))
    assert len(found.costs) >= 3
    assert 0.9 * asked.budget <= spent(found.labels, found) <= asked.budget
    svd = fit_source(table, None, replace(asked, n_subspaces=1, free=False))
    assert cost(table, found.labels, found) < 0.5 * cost(table, svd.labels, svd)


def test_one_equal_subspace_is_the_svd(table: Tensor, settings: SearchSettings) -> None:
    """However the rows are drawn and cut, k = 1 ends with the best rank-j approximation."""
    found = fit_source(table, None, replace(settings, n_subspaces=1, free=False))
    (basis,) = found.bases
    best = float(torch.linalg.svdvals(table.double())[len(basis) :].square().sum())
    assert cost(table, found.labels, found) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_shards_are_the_table_bit_for_bit(table: Tensor, settings: SearchSettings, weighted: bool) -> None:
    """Where the pieces of a table end does not show in what is found."""
    weights = torch.linspace(0.5, 2, N, dtype=torch.float64) if weighted else None
    whole = fit_source(table, weights, settings)
    pieces = fit_source(ShardedRows(table.split([1, 499, 400])), weights, settings)
    assert torch.equal(whole.labels, pieces.labels)
    assert all(torch.equal(a, b) for a, b in zip(whole.bases, pieces.bases, strict=True))


def test_weights_move_the_subspaces(table: Tensor, settings: SearchSettings) -> None:
    """Rows of weight 50 are fitted better than with weight one, the others worse."""
    weights = torch.ones(N, dtype=torch.float64)
    weights[:200] = 50
    plain, weighted = fit_source(table, None, settings), fit_source(table, weights, settings)
    assert cost(table[:200], weighted.labels[:200], weighted) < 0.8 * cost(table[:200], plain.labels[:200], plain)
    assert cost(table[200:], weighted.labels[200:], weighted) > cost(table[200:], plain.labels[200:], plain)


def test_ranks_find_what_one_process_finds(table: Tensor, settings: SearchSettings) -> None:
    """Three unequal blocks: the same bits on each rank, and the cost of one process within 1e-5."""
    parts = list(table.split([100, 500, 300]))
    results = on_ranks(parts, [settings] * 3)
    assert all(isinstance(found, StreamedFit) for found in results), results
    for found in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0].bases, found.bases, strict=True))
    alone = fit_source(table, None, settings)
    labels = torch.cat([found.labels for found in results])
    assert cost(table, labels, results[0]) == pytest.approx(cost(table, alone.labels, alone), rel=1e-5)
    assert spent(labels, results[0]) <= settings.budget


def test_ranks_that_disagree_are_stopped(table: Tensor, settings: SearchSettings) -> None:
    """Another seed on one rank is an error on all, before anything is computed."""
    results = on_ranks(list(table.split(450)), [settings, replace(settings, seed=1)])
    assert all(isinstance(error, RecipeError) for error in results)


class InterruptedRunError(Exception):
    """Stand for whatever ends a process."""


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_an_interrupted_run_ends_with_the_same_bits(
    table: Tensor, settings: SearchSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    """Stopped after the search or after a pass, a run goes on from its checkpoint and searches no more."""
    whole = fit_source(table, None, settings)
    file = tmp_path / "state" / "fit.safetensors"
    store = Checkpoint.store

    def stop_later(self: Checkpoint, state: Any, trials: Any) -> None:
        store(self, state, trials)
        if state.passes == passes:
            raise InterruptedRunError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "store", stop_later)
        with pytest.raises(InterruptedRunError):
            fit_source(table, None, settings, checkpoint=file)
    monkeypatch.setattr(streaming, "choose_subspaces", None)
    resumed = fit_source(table, None, settings, checkpoint=file)
    assert torch.equal(whole.labels, resumed.labels)
    assert all(torch.equal(a, b) for a, b in zip(whole.bases, resumed.bases, strict=True))
    assert (resumed.costs, resumed.trials) == (whole.costs, whole.trials)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3)])
def test_a_checkpoint_is_carried_on_by_any_number_of_ranks(
    table: Tensor, settings: SearchSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    """What was stored after one pass on some ranks ends, on others and without a search, at the cost of one process."""
    cuts = {1: [N], 2: [100, N - 100], 3: [300, 1, N - 301]}
    file, store = tmp_path / "fit.safetensors", Checkpoint.store

    def store_first_pass(self: Checkpoint, state: Any, trials: Any) -> None:
        if state.passes <= 1:
            store(self, state, trials)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "store", store_first_pass)
        first = on_ranks(list(table.split(cuts[before])), [settings] * before, checkpoint=file)
    monkeypatch.setattr(streaming, "choose_subspaces", None)
    monkeypatch.setattr(streaming, "row_shares", None)
    second = on_ranks(list(table.split(cuts[after])), [settings] * after, checkpoint=file)
    ends = []
    for results in (first, second):
        assert all(isinstance(found, StreamedFit) for found in results), results
        labels = torch.cat([found.labels for found in results])
        ends.append(cost(table, labels, results[0]))
        assert spent(labels, results[0]) <= settings.budget
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)
    assert second[0].costs[0] == first[0].costs[0]


def test_a_checkpoint_of_something_else_is_refused(table: Tensor, settings: SearchSettings, tmp_path: Path) -> None:
    """Other settings, another table, damage and a newer format are errors that say so; the file stays."""
    file = tmp_path / "fit.safetensors"
    fit_source(table, None, settings, checkpoint=file)
    kept = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"its `seed` is 0, not 1"):
        fit_source(table, None, replace(settings, seed=1), checkpoint=file)
    with pytest.raises(CheckpointError, match=r"its `rows drawn` is"):
        fit_source(table + 1, None, settings, checkpoint=file)
    assert file.read_bytes() == kept
    file.write_bytes(kept.replace(b'format\\": 1', b'format\\": 9'))
    with pytest.raises(FormatVersionError, match="format 9, newer than 1"):
        fit_source(table, None, settings, checkpoint=file)
    file.write_bytes(kept[:-100])
    with pytest.raises(CheckpointError, match=r"is damaged .*\n?.*delete it"):
        fit_source(table, None, settings, checkpoint=file)


def test_shards_that_do_not_fit_together_are_refused() -> None:
    """Another width, another type, no shard at all: named, with what was found."""
    with pytest.raises(DataError, match=r"shard 1 has rows of 5 torch.float32 .* shard 0 of 4 torch.float32"):
        ShardedRows([torch.zeros(2, 4), torch.zeros(2, 5)])
    with pytest.raises(DataError, match=r"b.npy has rows of 4 torch.float16 .* a.npy of 4 torch.float32"):
        ShardedRows([torch.zeros(2, 4), torch.zeros(2, 4).half()], ["a.npy", "b.npy"])
    with pytest.raises(DataError, match="no shard"):
        ShardedRows([])


def test_shards_are_read_like_their_concatenation() -> None:
    """Slices over borders, empty ones, and positions in any order."""
    rows = torch.arange(60.0).view(20, 3)
    joined: RowSource = ShardedRows(rows.split([7, 0, 1, 12]))
    assert joined.shape == (20, 3)
    for part in (slice(0, 20), slice(6, 9), slice(7, 8), slice(5, 5), slice(18, 40)):
        assert torch.equal(joined[part], rows[part])
    positions = torch.tensor([19, 0, 7, 7, 6, 8])
    assert torch.equal(joined[positions], rows[positions])


def test_a_budget_below_rank_one_is_refused(table: Tensor) -> None:
    """The error names the least that would do."""
    with pytest.raises(BudgetError, match="the least is 916"):
        fit_source(table, None, SearchSettings(915))


def test_rows_that_matter_are_drawn_though_few(settings: SearchSettings) -> None:
    """Three rows of 6,000 hold most of the energy: a search by importance knows what is lost, a uniform one cannot."""
    rows = planted_table(6000, D, 3, 2, noise=0.05)[0]
    rows[:3] *= 100
    asked = replace(settings, budget=(len(rows) + D) * 2, n_subspaces=1, free=False)
    found = {way: fit_source(rows, None, replace(asked, sampling=way)) for way in ("importance", "uniform")}
    truth = cost(rows, found["importance"].labels, found["importance"]) / float(rows.double().square().sum())
    assert found["importance"].trials[0].energy_lost == pytest.approx(truth, rel=0.2)
    assert found["uniform"].trials[0].energy_lost > 2 * truth
