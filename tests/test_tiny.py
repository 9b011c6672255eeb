"""Check that the models other tests rely on are what they claim to be."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.tiny import (
    FAMILIES,
    Head,
    planted_table,
    save_tiny_folder,
    tiny_inputs,
    tiny_model,
    tiny_tokenizer,
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_shares_the_table_and_an_untied_one_does_not(family: str, tied: bool) -> None:
    """One storage when tied; otherwise two tables with different values."""
    model = tiny_model(family, tied=tied)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (table.untyped_storage().data_ptr() == head.untyped_storage().data_ptr()) is tied
    assert torch.equal(table, head) is tied


@pytest.mark.parametrize("family", FAMILIES)
def test_no_parameter_keeps_a_constructor_value(family: str) -> None:
    """Neither zero nor one anywhere, so that a parameter lost in a reload changes the outputs."""
    for name, parameter in tiny_model(family).named_parameters():
        assert not ((parameter == 0) | (parameter == 1)).any(), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["lm", "classifier", "base"])
def test_a_seed_decides_a_model_and_leaves_the_global_generator_alone(family: str, head: Head) -> None:
    """Equal seeds, equal outputs; another seed, other outputs; torch's global stream is where it was."""
    state = torch.get_rng_state()
    models = [tiny_model(family, head=head, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        first, again, other = (model(**tiny_inputs(model))[0] for model in models)
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_holds_the_model_and_a_tokenizer_that_fits(family: str, tmp_path: Path) -> None:
    """Both load again; the tokenizer's ids are inside the table and its padding is the model's."""
    from transformers import AutoModel, AutoTokenizer

    model = save_tiny_folder(tmp_path, family, head="base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer(["Some words", "more of them, and longer"], padding=True, return_tensors="pt")
    assert batch["input_ids"].max() < len(tokenizer) == model.config.vocab_size
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert tokenizer.unk_token_id not in tokenizer("Any word of A to Z")["input_ids"]
    reloaded = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(reloaded(**batch)[0], model(**batch)[0])


def test_rows_of_a_planted_table_lie_in_their_own_subspace_only() -> None:
    """Without noise each label's rows have the planted rank, and all rows together the sum of the ranks."""
    table, labels = planted_table(n=90, d=20, k=3, rank=2, noise=0.0, seed=4)
    assert torch.bincount(labels).tolist() == [30, 30, 30]
    assert torch.linalg.matrix_rank(table) == 6
    for label in range(3):
        assert torch.linalg.matrix_rank(table[labels == label]) == 2


def test_a_tiny_embedding_is_better_served_by_subspaces_than_by_one() -> None:
    """At rank d / 4 a single subspace loses much more than the four planted ones would."""
    table = tiny_model("bert", vocabulary=400).get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    energies = torch.linalg.svdvals(table.weight.detach()) ** 2
    assert energies[8:].sum() / energies.sum() > 0.4


def test_the_tokenizer_has_exactly_the_size_asked_for() -> None:
    """Every id is a distinct token, even when the invented words grow longer."""
    for size in (57, 120, 6000):
        assert len(tiny_tokenizer(size).get_vocab()) == size
    with pytest.raises(ValueError, match="below the 57"):
        tiny_tokenizer(56)
