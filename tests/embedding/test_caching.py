"""A cache of rows must never be seen but in the time that look-ups take."""

import copy
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.embedding.layers import KINDS, layer_of
from torch import Tensor

IDS = torch.tensor([[3, 1, 3, 59], [4, 4, 0, 1], [59, 7, 3, 2]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [1, 4, 500])
@torch.no_grad()
def test_rows_are_those_of_the_layer_without_a_cache(kind: str, capacity: int) -> None:
    """Whether rows are kept, new or more than there is room for, in either type of ids and with the padding row."""
    layer = layer_of(kind, padding_idx=4).requires_grad_(False)
    dense = layer.to_dense()
    layer.cache_rows(capacity)
    for ids in (*IDS, IDS, IDS.int(), IDS[:0]):
        torch.testing.assert_close(layer(ids), dense[ids])
    assert layer._cache is not None
    assert layer._cache._used == min(capacity, 7)
    assert layer.state_dict().keys() == layer_of(kind, padding_idx=4).state_dict().keys()


@torch.no_grad()
def test_what_was_kept_is_not_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a second look-up only the new rows are decoded, each once."""
    layer = layer_of("mixed").cache_rows()
    layer(IDS[0])
    asked = []
    decode = layer.rows
    monkeypatch.setattr(layer, "rows", lambda ids: asked.append(ids.tolist()) or decode(ids))
    layer(IDS[1])
    layer(IDS[0])
    assert asked == [[0, 4]]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_layer_that_changes_forgets_its_rows(kind: str) -> None:
    """Changed in place, loaded anew, in another type or copied, the layer returns what it now stores."""
    layer = layer_of(kind).requires_grad_(False).cache_rows()
    layer(IDS)
    other = {name: torch.flip(tensor, [0]) for name, tensor in layer.state_dict().items()}
    name = "bases" if "bases" in other else next(name for name, tensor in other.items() if tensor.is_floating_point())
    layer.state_dict()[name].copy_(other[name])
    torch.testing.assert_close(layer(IDS), layer.to_dense()[IDS])
    layer.load_state_dict(layer_of(kind).state_dict())
    torch.testing.assert_close(layer(IDS), layer_of(kind)(IDS))
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(layer.half()(IDS), layer_of(kind).half()(IDS))
    assert twin(IDS).dtype == torch.float32


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_trained_is_never_kept(fused: bool) -> None:
    """Rows that are kept would have no gradient, and fused optimisers change numbers without a trace."""
    layer = layer_of("subspaces").cache_rows()
    with torch.no_grad():
        layer(IDS)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
    layer(IDS).sum().backward()
    assert any(part.grad is not None and part.grad.any() for part in layer.parameters())
    with torch.no_grad():
        layer(IDS)
    optimiser.step()
    with torch.no_grad():
        torch.testing.assert_close(layer(IDS), layer.to_dense()[IDS])


def test_a_layer_of_inference_mode_is_looked_up_without_a_cache() -> None:
    """Its numbers may change without a trace; no ids have the type of rows, as without a cache."""
    with torch.inference_mode():
        twin = copy.deepcopy(layer_of("mixed")).cache_rows()
        torch.testing.assert_close(twin(IDS), twin.to_dense()[IDS])
    assert layer_of("mixed").half().cache_rows()(IDS[:0]).dtype == torch.float16


def test_a_cache_begun_in_inference_mode_goes_on_outside() -> None:
    """What inference mode makes cannot be changed elsewhere, which a cache is."""
    layer = layer_of("mixed").cache_rows()
    with torch.inference_mode():
        layer(IDS[0])
    torch.testing.assert_close(layer(IDS), layer.to_dense()[IDS])


def test_threads_share_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of calls at the same time one decodes while the others wait, so that no slot is filled twice."""
    layer = layer_of("mixed", n=400).cache_rows(350)
    dense, decode, inside, most = layer.to_dense(), layer.rows, [], []

    def watched(ids: Tensor) -> Tensor:
        inside.append(ids)
        time.sleep(0.01)
        most.append(len(inside))
        inside.pop()
        return decode(ids)

    monkeypatch.setattr(layer, "rows", watched)
    draws = [torch.randint(400, (40,), generator=torch.Generator().manual_seed(seed)) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for ids, rows in zip(draws, pool.map(layer, draws), strict=True):
            torch.testing.assert_close(rows, dense[ids])
    assert max(most) == 1


def test_a_cache_without_room_is_an_error() -> None:
    """The least is said, and how to have none."""
    with pytest.raises(ValueError, match=r"capacity is 0, the least is 1\nhint: None"):
        layer_of("int8").cache_rows(0)
