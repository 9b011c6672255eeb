"""Check plan, apply and compress on tables and on any torch module: what comes out, and what stays as it was."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import foldflat
from foldflat import EmbeddingRecipe, SubspaceEmbedding, SubspaceHead
from foldflat.errors import BudgetError, DataError, NoEmbeddingError, RecipeError, UnsupportedModelError
from tests.tiny import planted_table

METHODS = ("subspaces", "svd", "int8", "int4")


class Tagger(nn.Module):
    """Words and tags embedded, a tied and an untied output layer, a normalisation with a state of its own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(
            planted_table(80, 12, 3, 4, seed=seed)[0], freeze=False, padding_idx=0
        )
        self.tags = nn.Embedding.from_pretrained(planted_table(30, 12, 2, 3, seed=seed + 1)[0], freeze=True)
        self.norm = nn.BatchNorm1d(12)
        self.to_words = nn.Linear(12, 80)
        self.to_words.weight = self.words.weight
        self.to_tags = nn.Linear(12, 30, bias=False)

    def forward(self, words: Tensor, tags: Tensor) -> Tensor:
        """Return the logits of both output layers, side by side."""
        hidden = self.norm(self.words(words) + self.tags(tags))
        return torch.cat([self.to_words(hidden), self.to_tags(hidden)], 1)


def _inputs() -> tuple[Tensor, Tensor]:
    return torch.tensor([0, 5, 79, 5, 33]), torch.tensor([1, 0, 29, 7, 7])


def _recipe(method: str, **settings: Any) -> EmbeddingRecipe:
    # two subspaces are enough here, and searching for the best number takes most of the time
    more = {"n_subspaces": 2} if method == "subspaces" else {}
    return EmbeddingRecipe(method=method, **(more | settings))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training", [False, True])
def test_the_model_that_is_given_stays_as_it_is(method: str, training: bool) -> None:
    """Its tensors, its modules and its mode; training the result does not reach it either."""
    model = Tagger().train(training)
    before = copy.deepcopy(model.state_dict())
    modules = dict(model.named_modules())
    result = foldflat.compress(model, _recipe(method))
    with torch.no_grad():
        for tensor in result.model.state_dict().values():
            tensor.zero_()
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    shared = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert not shared & {id(tensor) for tensor in (*result.model.parameters(), *result.model.buffers())}


def test_every_embedding_of_a_module_is_replaced_and_its_head_with_it() -> None:
    """The tied output layer multiplies by the compressed table and keeps its bias; the rest is copied."""
    model = Tagger()
    result = foldflat.compress(model, _recipe("subspaces"))
    assert isinstance(result.model.words, SubspaceEmbedding)
    assert isinstance(result.model.tags, SubspaceEmbedding)
    assert isinstance(result.model.to_words, SubspaceHead)
    assert result.model.to_words.embedding is result.model.words
    assert torch.equal(result.model.to_words.bias, model.to_words.bias)
    assert torch.equal(result.model.to_tags.weight, model.to_tags.weight)
    assert result.report["model_size_bytes_after"] < result.report["model_size_bytes_before"]
    assert len({parameter.data_ptr() for parameter in result.model.parameters()}) == len(
        list(result.model.parameters())
    )


def test_modes_and_frozen_weights_are_kept_module_by_module() -> None:
    """A module in another mode than the model around it stays in it, and frozen tables stay frozen."""
    model = Tagger().train()
    model.norm.eval()
    model.tags.eval()
    result = foldflat.compress(model, _recipe("subspaces")).model
    for name, module in model.named_modules():
        assert result.get_submodule(name).training is module.training, name
    assert all(parameter.requires_grad for parameter in result.words.parameters())
    assert not any(parameter.requires_grad for parameter in result.tags.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_dense_model_computes_the_same(method: str) -> None:
    """`to_dense` gives plain layers of the original classes, tied as they were, and the same logits."""
    result = foldflat.compress(Tagger().eval(), _recipe(method))
    dense = result.to_dense()
    assert [type(module) for module in dense.modules()] == [type(module) for module in Tagger().modules()]
    assert dense.to_words.weight is dense.words.weight
    assert dense.words.padding_idx == 0
    assert not dense.tags.weight.requires_grad
    torch.testing.assert_close(dense(*_inputs()), result.model(*_inputs()), atol=1e-5, rtol=1e-5)
    assert isinstance(result.model.words, foldflat.embedding.base.CompressedEmbedding)


def test_tables_under_several_names_stay_one_table() -> None:
    """Two modules that share a weight share the replacement, and the dense model shares a weight again."""
    shared = nn.Embedding.from_pretrained(planted_table(60, 12, 3, 4)[0], freeze=False)
    model = nn.ModuleDict({"encoder": shared, "decoder": nn.Embedding(60, 12)})
    model["decoder"].weight = shared.weight
    result = foldflat.compress(model, _recipe("subspaces"))
    ids = torch.tensor([3, 59, 3])
    assert torch.equal(result.model["encoder"](ids), result.model["decoder"](ids))
    assert result.report["parameters_before"] == 720
    assert sum(parameter.numel() for parameter in result.model.parameters()) == result.report["parameters_after"]
    dense = result.to_dense()
    assert dense["encoder"].weight is dense["decoder"].weight


@pytest.mark.parametrize("kind", ["tensor", "parameter", "array", "read-only array", "half", "embedding", "strided"])
def test_a_bare_table_becomes_a_layer(kind: str) -> None:
    """Tensors, arrays and embeddings of any float type; the numbers that were given are not touched."""
    table = planted_table(60, 12, 3, 4)[0]
    given: Any = {
        "tensor": lambda: table,
        "parameter": lambda: nn.Parameter(table),
        "array": table.numpy,
        "read-only array": lambda: np.frombuffer(table.numpy().tobytes(), dtype=np.float32).reshape(60, 12),
        "half": lambda: table.half().numpy(),
        "embedding": lambda: nn.Embedding.from_pretrained(table),
        "strided": lambda: table.T.contiguous().T,
    }[kind]()
    before = table.clone()
    result = foldflat.compress(given, _recipe("subspaces"))
    assert isinstance(result.model, SubspaceEmbedding)
    rows = result.model(torch.tensor([[1, 2]]))
    assert rows.shape == (1, 2, 12)
    assert rows.dtype == (torch.float16 if kind == "half" else torch.float32)
    assert result.report["tables"][0]["name"] == "table"
    assert result.report["tables"][0]["energy_lost"] < 0.2
    assert torch.equal(table, before)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ("some/folder", UnsupportedModelError, "model is a str; hint: give a torch module"),
        (torch.zeros(3), UnsupportedModelError, r"table has shape \(3,\)"),
        (torch.zeros(0, 4), UnsupportedModelError, r"table has shape \(0, 4\)"),
        (torch.zeros(4, 0), UnsupportedModelError, r"table has shape \(4, 0\)"),
        (torch.zeros(4, 4, dtype=torch.int64), UnsupportedModelError, r"type torch.int64"),
        (nn.Linear(3, 3), NoEmbeddingError, r"Linear has no nn\.Embedding"),
        (nn.Embedding(20, 6, device="meta"), DataError, "the table is on the meta device"),
    ],
)
def test_what_is_no_table_and_has_none_is_refused(given: Any, kind: type[Exception], message: str) -> None:
    """What was given, and what to give instead."""
    with pytest.raises(kind, match=message):
        foldflat.compress(given, _recipe("subspaces"))


@pytest.mark.parametrize(
    "settings",
    [{}, {"method": "svd"}, {"coefficients": "mixed"}, {"method": "int8"}, {"method": "auto"}],
    ids=["subspaces", "svd", "mixed", "int8", "auto"],
)
def test_of_several_tables_the_one_without_enough_is_named_with_its_part(settings: dict[str, Any]) -> None:
    """A budget of bytes is split by size: the message says what this table got, of how much, and the way out."""
    tables = nn.ModuleDict({"large": nn.Embedding(600, 8), "small": nn.Embedding(200, 8)})
    part = r"`large`|table of 600 x 8"
    with pytest.raises(
        BudgetError, match=rf"(?s)({part}).*\n600 bytes are the part of this table, 75.0% of the 800 for 2"
    ):
        foldflat.compress(tables, EmbeddingRecipe(budget_bytes=800, **settings))
    with pytest.raises(BudgetError, match=r"hint: .* for this table alone"):
        foldflat.compress(tables, EmbeddingRecipe(budget_bytes=800, **settings))


@pytest.mark.parametrize("settings", [{}, {"method": "svd"}, {"coefficients": "mixed"}])
def test_a_table_of_its_padding_row_alone_is_refused(settings: dict[str, Any]) -> None:
    """The row is kept as it is, so nothing is left to make smaller; int8 rows still can be had."""
    table = nn.Embedding(1, 8, padding_idx=0)
    with pytest.raises(BudgetError, match="the only row of the table is its padding row"):
        foldflat.compress(table, EmbeddingRecipe(budget_bytes=20_000, **settings))
    assert foldflat.compress(table, EmbeddingRecipe(budget_bytes=20_000, method="auto")).model.size_bytes == 12


def test_a_recipe_of_another_kind_is_refused() -> None:
    """For one, the settings as a dict."""
    with pytest.raises(RecipeError, match=r"the recipe is a dict; hint: give a foldflat\.EmbeddingRecipe"):
        foldflat.compress(torch.zeros(9, 4), {"keep_ratio": 0.6})  # type: ignore[arg-type]


def test_a_compressed_model_is_not_compressed_again() -> None:
    """It has no embeddings left, and the message says why."""
    model = nn.ModuleDict({"table": nn.Embedding.from_pretrained(planted_table(60, 12, 3, 4)[0])})
    once = foldflat.compress(model, _recipe("subspaces")).model
    with pytest.raises(NoEmbeddingError, match="compressed already"):
        foldflat.compress(once, _recipe("subspaces"))


def test_progress_is_told_as_it_is_made() -> None:
    """One line for each number of subspaces that is tried, naming the table."""
    lines: list[str] = []
    result = foldflat.compress(Tagger(), _recipe("subspaces", include="words", n_subspaces="auto"), watch=lines.append)
    assert len(lines) == len(result.report["tables"][0]["trials"]) > 1
    assert lines[0].startswith("words: 1 subspaces lose ")


def test_compress_is_plan_and_apply_in_one() -> None:
    """The same tensors, and a result whose plan can be applied again."""
    model = Tagger()
    result = foldflat.compress(model, _recipe("subspaces"))
    in_two = foldflat.apply(model, foldflat.plan(model, _recipe("subspaces"))).model.state_dict()
    again = foldflat.apply(model, result.plan).model.state_dict()
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, in_two[name])
        assert torch.equal(tensor, again[name])


def test_row_weights_may_come_from_calibration_ids() -> None:
    """Tokens that occur are served better than those that do not, at the same number of parameters."""
    model = nn.Sequential(
        nn.Embedding.from_pretrained(torch.randn(200, 12, generator=torch.Generator().manual_seed(0)))
    )
    often = torch.arange(20).repeat(500)
    lost = []
    for recipe in (
        EmbeddingRecipe(keep_ratio=0.5, n_subspaces=2),
        EmbeddingRecipe(keep_ratio=0.5, n_subspaces=2, row_weights="auto"),
    ):
        result = foldflat.compress(model, recipe, calibration=often)
        lost.append(float((model[0].weight[:20] - result.model[0].to_dense()[:20]).square().sum()))
    assert lost[1] < 0.5 * lost[0]
