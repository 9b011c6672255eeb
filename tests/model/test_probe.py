"""Check which embeddings are found, what is known to share their weights, and what is refused by name."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from foldflat.errors import NoEmbeddingError, UnsupportedModelError
from foldflat.model.probe import find_tables


class Recommender(nn.Module):
    """Two towers with a shared table of countries, and a tied output layer over items."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.ModuleDict({"id": nn.Embedding(50, 8), "country": nn.Embedding(9, 4)})
        self.item = nn.ModuleDict({"id": nn.Embedding(70, 8), "country": nn.Embedding(9, 4)})
        self.item["country"].weight = self.user["country"].weight
        self.alias = self.item["id"]
        self.score = nn.Linear(8, 70)
        self.score.weight = self.item["id"].weight


class Scaled(nn.Embedding):
    """An embedding that scales its rows, as several models have."""


def test_every_table_is_found_once_with_all_that_share_it() -> None:
    """In the model's order: two modules with one weight, one module under two names, a tied output layer."""
    found = find_tables(Recommender())
    assert [(table.names, table.heads) for table in found] == [
        (("user.id",), ()),
        (("user.country", "item.country"), ()),
        (("item.id", "alias"), ("score",)),
    ]
    assert [table.name for table in found] == ["user.id", "user.country", "item.id"]


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        ("user.*", (), ["user.id", "user.country"]),
        (("*.id",), (), ["user.id", "item.id"]),
        (None, "*country", ["user.id", "item.id"]),
        (("*.id", "*.country"), ("user.*", "item.country", "alias"), ["item.id"]),
    ],
)
def test_patterns_choose(
    include: str | tuple[str, ...] | None, exclude: str | tuple[str, ...], names: list[str]
) -> None:
    """Dotted names as in fnmatch, one or several; what is excluded is left out of what is included."""
    assert [table.name for table in find_tables(Recommender(), include, exclude)] == names


def test_patterns_override_the_familys_default() -> None:
    """The names that a family selects hold only where none are given."""
    default = ("item.id",)
    assert [table.name for table in find_tables(Recommender(), default_names=default)] == ["item.id"]
    assert [table.name for table in find_tables(Recommender(), "user.id", default_names=default)] == ["user.id"]


def test_a_bare_embedding_is_its_own_model() -> None:
    """Its name is empty."""
    (table,) = find_tables(nn.Embedding(5, 3))
    assert (table.name, table.names, table.heads) == ("", ("",), ())


def test_nothing_to_compress_is_an_error_that_lists_what_there_is() -> None:
    """Either there is no embedding, or the patterns leave none."""
    with pytest.raises(NoEmbeddingError, match=r"Linear has no nn\.Embedding"):
        find_tables(nn.Linear(3, 4))
    with pytest.raises(
        NoEmbeddingError, match=r"left by include='users.*', exclude=\(\)(.|\n)*it has `user.id`, `user.c"
    ):
        find_tables(Recommender(), "users*")
    with pytest.raises(LookupError):
        find_tables(Recommender(), exclude="*")


def _hooked() -> nn.Embedding:
    embedding = nn.Embedding(9, 4)
    embedding.register_forward_hook(lambda _, __, rows: 10 * rows)
    return embedding


def _odd_head() -> nn.Module:
    model = nn.ModuleDict({"table": nn.Embedding(9, 4), "out": nn.Bilinear(2, 2, 3)})
    model["out"].register_parameter("projection", model["table"].weight)
    return model


REFUSED = {
    "subclass": (lambda: nn.ModuleDict({"table": Scaled(9, 4)}), "`table` is a Scaled, a subclass of nn.Embedding"),
    "max_norm": (lambda: nn.ModuleDict({"table": nn.Embedding(9, 4, max_norm=1.0)}), "`table` has max_norm=1.0"),
    "weight norm": (
        lambda: nn.ModuleDict({"table": parametrizations.weight_norm(nn.Embedding(9, 4))}),
        "`table` is a ParametrizedEmbedding",
    ),
    "spectral norm": (
        lambda: nn.ModuleDict({"table": nn.utils.spectral_norm(nn.Embedding(9, 4))}),
        "`table` is computed from other parameters",
    ),
    "hook": (lambda: nn.ModuleDict({"table": _hooked()}), "`table` has forward hooks"),
    "other user": (_odd_head, r"weight of `table` is shared with `out` \(Bilinear\)"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_change_the_model_is_refused_by_name(build: object, message: str) -> None:
    """Never altered silently; excluding it is the way out, and then there is nothing left here."""
    model = build()  # type: ignore[operator]
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        find_tables(model)
    assert "hint:" in str(caught.value)
    with pytest.raises(NoEmbeddingError):
        find_tables(model, exclude="table")


def test_a_refused_module_is_found_through_the_weight_it_shares() -> None:
    """A plain embedding whose weight a scaled one uses as well cannot be replaced either."""
    model = nn.ModuleDict({"plain": nn.Embedding(9, 4), "scaled": Scaled(9, 4)})
    model["scaled"].weight = model["plain"].weight
    with pytest.raises(UnsupportedModelError, match="`scaled` is a Scaled"):
        find_tables(model, "plain")


def test_probing_leaves_the_model_alone() -> None:
    """Same parameters, same modules, same names."""
    model = Recommender()
    before = {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    find_tables(model)
    assert before == {name: id(module) for name, module in model.named_modules(remove_duplicate=False)}
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
