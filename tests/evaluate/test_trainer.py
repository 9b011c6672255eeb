"""A compressed model in transformers' Trainer: checkpoints are found again."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model
from torch import nn
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

import foldflat
from foldflat.embedding.training import masters_of, packed_tables
from foldflat.errors import CheckpointError, PlanMismatchError
from foldflat.evaluate import load_split
from foldflat.evaluate.trainer import CompressedTrainer
from foldflat.model.hub.weights_file import load_weights


@pytest.fixture
def rows(glue_folder: Callable[..., Path], tokenizer: Any) -> Any:
    """Return 24 tokenised rows of three labels, each padded to one length."""
    return load_split(glue_folder("mnli", n=24), "mnli", "train", tokenizer=tokenizer)


def trainer(
    kind: type[Trainer], rows: Any, tokenizer: Any, folder: Path, *, coefficients: str = "same", **settings: Any
) -> Trainer:
    """Return a trainer of a compressed classifier, six steps, a checkpoint at each; integers are trained too."""
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
    compressed = foldflat.compress(model, foldflat.EmbeddingRecipe(n_subspaces=2, coefficients=coefficients)).model
    for table in packed_tables(compressed).values():
        table.unfreeze(coefficients=True)
    collator = DataCollatorWithPadding(tokenizer)
    return kind(model=compressed, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=collator)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Compare bit for bit."""
    return same_tensors(one.state_dict(), other.state_dict())


def same_tensors(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Compare bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("coefficients", ["same", "int4"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    coefficients: str, rows: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """Two of six steps, then a new process' worth of objects, then the other four; Trainer alone refuses."""
    recipe = {"coefficients": coefficients}
    whole = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "whole", **recipe)
    whole.train()
    for name in ("checkpoint-1", "checkpoint-3", "checkpoint-4", "checkpoint-5", "checkpoint-6"):
        shutil.rmtree(tmp_path / "whole" / name)
    resumed = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "whole", **recipe)
    resumed.train(resume_from_checkpoint=True)
    assert same_weights(resumed.model, whole.model)
    assert same_tensors(masters_of(resumed.model), masters_of(whole.model))
    plain = trainer(Trainer, rows, tokenizer, tmp_path / "whole", **recipe)
    with pytest.raises(ValueError, match="Can't find a valid checkpoint"):
        plain.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("coefficients", ["same", "int4"])
def test_the_best_checkpoint_comes_back(
    coefficients: str, rows: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `load_best_model_at_end` the model ends as it was after its best evaluation, not its last."""
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    settings = best | {"greater_is_better": False, "coefficients": coefficients}
    run = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "run", **settings)
    evaluate = run.evaluate

    def spoiled(*args: Any, **kwargs: Any) -> dict[str, float]:
        return evaluate(*args, **kwargs) | {"eval_loss": float(abs(run.state.global_step - 2))}

    monkeypatch.setattr(run, "evaluate", spoiled)
    run.train()
    assert Path(run.state.best_model_checkpoint or "").name == "checkpoint-2"
    second = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "other", coefficients=coefficients).model
    load_weights(second, tmp_path / "run" / "checkpoint-2")
    last = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "other", coefficients=coefficients).model
    load_weights(last, tmp_path / "run" / "checkpoint-6")
    assert same_weights(run.model, second)
    assert not same_weights(run.model, last)


def test_a_checkpoint_of_trained_tables_is_a_folder_of_the_usual_format(
    rows: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """It loads in the usual way, as the model would be frozen; a run with frozen tables does not go on from it."""
    run = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "run", coefficients="int4")
    start = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.train()
    codes = next(name for name in start if name.endswith(".codes"))
    assert not torch.equal(run.model.state_dict()[codes], start[codes])
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "checkpoint-6")
    assert same_weights(loaded, run.model)
    run.save_model(str(tmp_path / "delivered"))
    assert not (tmp_path / "delivered" / "tables.training.safetensors").exists()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    frozen = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "run", coefficients="int4")
    for table in packed_tables(frozen.model).values():
        table.freeze()
    with pytest.raises(PlanMismatchError, match="hint: unfreeze the tables as the run did"):
        frozen.train(resume_from_checkpoint=True)


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


def test_tables_are_trained_in_several_processes(
    rows: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DistributedDataParallel takes the model; its backends cannot send integers of 16 bits."""
    from torch import distributed

    made = trainer(CompressedTrainer, rows, tokenizer, tmp_path / "run", coefficients="int4")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(made.model)
        found = wrapped(**{name: torch.tensor(rows[name][:1]) for name in ("input_ids", "attention_mask", "labels")})
        found.loss.backward()
    finally:
        distributed.destroy_process_group()
    assert all(parameter.grad is not None for parameter in made.model.parameters())
