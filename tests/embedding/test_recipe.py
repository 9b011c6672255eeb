"""Check what a recipe accepts, and that every refusal says why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foldflat import EmbeddingRecipe
from foldflat.embedding.recipe import stored_dtype
from foldflat.errors import RecipeError

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing kept": ({"keep_ratio": 0.0}, r"`keep_ratio` is 0.0, outside \(0, 1\]"),
    "more than all": ({"keep_ratio": 1.2}, r"`keep_ratio` is 1.2, outside \(0, 1\]"),
    "not a number": ({"keep_ratio": float("nan")}, "`keep_ratio` is nan"),
    "a word": ({"keep_ratio": "0.6"}, "`keep_ratio` is '0.6'"),
    "no bytes": ({"budget_bytes": 0}, "`budget_bytes` is 0"),
    "nan bytes": ({"budget_bytes": float("nan")}, "`budget_bytes` is nan"),
    "no error": ({"max_error": 0.0}, r"`max_error` is 0.0, outside \(0, 1\)"),
    "all lost": ({"max_error": 1.0}, r"`max_error` is 1.0, outside \(0, 1\)"),
    "nan error": ({"max_error": float("nan")}, "`max_error` is nan"),
    "two budgets": ({"keep_ratio": 0.5, "max_error": 0.1}, "`keep_ratio` and `max_error` are given"),
    "three budgets": (
        {"keep_ratio": 0.5, "budget_bytes": 9, "max_error": 0.1},
        "`keep_ratio` and `budget_bytes` and `max_error` are given",
    ),
    "method": ({"method": "pq"}, "`method` is 'pq', which is unknown; hint: choose one of subspaces, svd, int8, int4"),
    "coefficients": ({"coefficients": "int3"}, "`coefficients` is 'int3', which is unknown"),
    "int8 has one size": (
        {"method": "int8", "keep_ratio": 0.5},
        '"int8" has one size, 8 bits a number and 32 a row .keep ratio 1.0',
    ),
    "int4 has one size": ({"method": "int4", "keep_ratio": 0.5}, '"int4" has one size, 4.5 bits a number'),
    "int8 has no coefficients": ({"method": "int8", "coefficients": "bfloat16"}, '"int8" has none'),
    "no subspaces": ({"n_subspaces": 0}, "`n_subspaces` is 0"),
    "half a subspace": ({"n_subspaces": 2.5}, "`n_subspaces` is 2.5"),
    "some subspaces": ({"n_subspaces": "some"}, "`n_subspaces` is 'some'"),
    "beyond the codes": ({"n_subspaces": 40_000}, "`n_subspaces` is 40000; at most 32767"),
    "svd is one": ({"method": "svd", "n_subspaces": 3}, '"svd" is one subspace'),
    "negative seed": ({"seed": -1}, "`seed` is -1"),
    "long seed": ({"seed": 2**32}, "`seed` is 4294967296"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_recipe_that_contradicts_itself_is_refused(settings: dict[str, Any], message: str) -> None:
    """When it is made, naming the setting and the value; code that expects a ValueError catches it."""
    with pytest.raises(RecipeError, match=message) as caught:
        EmbeddingRecipe(**settings)
    assert isinstance(caught.value, ValueError)


def test_sixty_percent_is_kept_when_nothing_is_said() -> None:
    """The default holds only where no budget is given."""
    assert EmbeddingRecipe().asked_keep_ratio == 0.6
    assert EmbeddingRecipe(keep_ratio=0.25).asked_keep_ratio == 0.25
    assert EmbeddingRecipe(budget_bytes=1000).asked_keep_ratio is None
    assert EmbeddingRecipe(max_error=0.1).asked_keep_ratio is None


def test_a_recipe_is_json_and_does_not_hold_the_weights() -> None:
    """Row weights given as numbers are counted, given as a file are named; all else survives the way there and back."""
    recipe = EmbeddingRecipe(keep_ratio=0.5, include="a.*", exclude=("b", "c"), seed=7, n_subspaces=3)
    values = json.loads(json.dumps(recipe.to_dict()))
    values["exclude"] = tuple(values["exclude"])
    assert EmbeddingRecipe(**values) == recipe
    assert EmbeddingRecipe(row_weights=torch.ones(12)).to_dict()["row_weights"] == "12 numbers"
    assert EmbeddingRecipe(row_weights="counts.npy").to_dict()["row_weights"] == "counts.npy"
    assert EmbeddingRecipe(row_weights=Path("counts.npy")).to_dict()["row_weights"] == "counts.npy"


def test_the_stored_type_is_the_tables_unless_another_is_asked_for() -> None:
    """The word "same" follows the table; names are types."""
    assert stored_dtype(EmbeddingRecipe(), torch.float16) == torch.float16
    assert stored_dtype(EmbeddingRecipe(coefficients="bfloat16"), torch.float32) == torch.bfloat16
