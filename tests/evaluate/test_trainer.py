"""A compressed model in transformers' Trainer: checkpoints are found again."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model
from torch import nn
from transformers import Trainer, TrainingArguments

import foldflat
from foldflat.errors import CheckpointError, PlanMismatchError
from foldflat.evaluate import load_split
from foldflat.evaluate.trainer import CompressedTrainer
from foldflat.model.hub.weights_file import load_weights


@pytest.fixture
def rows(glue_folder: Callable[..., Path], tokenizer: Any) -> Any:
    """Return 24 tokenised rows of three labels, each padded to one length."""
    return load_split(glue_folder("mnli", n=24), "mnli", "train", tokenizer=tokenizer)


def trainer(kind: type[Trainer], rows: Any, tokenizer: Any, folder: Path, **settings: Any) -> Trainer:
    """Return a trainer of a compressed classifier, six steps, a checkpoint at each."""
    from transformers import DataCollatorWithPadding

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=6,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="steps",
        save_steps=1,
        logging_strategy="no",
        disable_tqdm=True,
        report_to="none",
        **settings,
    )
    model = tiny_model("distilbert", head="classifier")
    compressed = foldflat.compress(model, foldflat.EmbeddingRecipe(n_subspaces=2)).model
    collator = DataCollatorWithPadding(tokenizer)
    return kind(model=compressed, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=collator)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Compare bit for bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(rows: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Two of six steps, then a new process' worth of objects, then the other four; Trainer alone refuses."""
    whole = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "whole")
    whole.train()
    for name in ("checkpoint-1", "checkpoint-3", "checkpoint-4", "checkpoint-5", "checkpoint-6"):
        shutil.rmtree(tmp_path / "whole" / name)
    resumed = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "whole")
    resumed.train(resume_from_checkpoint=True)
    assert same_weights(resumed.model, whole.model)
    plain = trainer(Trainer, rows, tokenizer, tmp_path / "whole")
    with pytest.raises(ValueError, match="Can't find a valid checkpoint"):
        plain.train(resume_from_checkpoint=True)


def test_the_best_checkpoint_comes_back(
    rows: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `load_best_model_at_end` the model ends as it was after its best evaluation, not its last."""
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    run = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "run", greater_is_better=False, **best)
    evaluate = run.evaluate

    def spoiled(*args: Any, **kwargs: Any) -> dict[str, float]:
        return evaluate(*args, **kwargs) | {"eval_loss": float(abs(run.state.global_step - 2))}

    monkeypatch.setattr(run, "evaluate", spoiled)
    run.train()
    assert Path(run.state.best_model_checkpoint or "").name == "checkpoint-2"
    second = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "other").model
    load_weights(second, tmp_path / "run" / "checkpoint-2")
    last = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "other").model
    load_weights(last, tmp_path / "run" / "checkpoint-6")
    assert same_weights(run.model, second)
    assert not same_weights(run.model, last)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """Another number of subspaces, or a damaged file: an error that names the tensor, and the model as it was."""
    models = [foldflat.compress(tiny_model("gpt2"), foldflat.EmbeddingRecipe(n_subspaces=k)).model for k in (2, 3)]
    models[0].save_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in models[1].state_dict().items()}
    with pytest.raises(PlanMismatchError, match=r"does not fit this GPT2LMHeadModel: `.*`"):
        load_weights(models[1], tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in models[1].state_dict().items())
    (tmp_path / "model.foldflat.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_weights(models[0], tmp_path)
