"""Check what is scored and fine-tuned from folders, and which folders are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import save_tiny_folder, tiny_model, tiny_tokenizer

from foldflat.errors import CheckpointError, DataError, ModelNotFoundError
from foldflat.evaluate import TrainingSettings, finetune_classifier, glue_task, score_classifier
from foldflat.evaluate.loading import load_classifier, load_tokenizer

BRIEF = TrainingSettings(max_steps=2, batch_size=8)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a classifier of three labels."""
    folder = tmp_path_factory.mktemp("classifier")
    save_tiny_folder(folder, "distilbert", head="classifier")
    return folder


def change_weights(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Copy a model folder and change its weights."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_folder_and_its_model_score_the_same(
    classifier: Path, glue_folder: Callable[..., Path], tokenizer: Any
) -> None:
    """All keys, ready for JSON; MNLI's validation is the matched one."""
    data = glue_folder("mnli", n=30)
    scores = score_classifier(classifier, "mnli", data)
    model = tiny_model("distilbert", head="classifier")
    assert scores == score_classifier(model, "mnli", data, tokenizer=tokenizer, batch_size=7)
    assert json.loads(json.dumps(scores)) == scores
    assert scores["split"] == "validation_matched"
    assert scores["examples"] == 30
    assert scores["headline"] == {"name": "accuracy", "value": scores["metrics"]["accuracy"]}
    assert scores["majority_baseline"] == pytest.approx(1 / 3)
    assert score_classifier(classifier, "mnli", data, max_examples=4)["examples"] == 4


def test_a_trained_model_scores_from_its_folder_as_it_did(sst2: Path, masked_lm: Path, tmp_path: Path) -> None:
    """Fine-tuned, saved, read again; and it can be fine-tuned further, in place."""
    result = finetune_classifier(masked_lm, "sst2", sst2, settings=BRIEF, progress=False)
    result.model.save_pretrained(tmp_path)
    result.tokenizer.save_pretrained(tmp_path)
    assert score_classifier(tmp_path, "sst2", sst2) == result.metrics
    again = finetune_classifier(result.model, "sst2", sst2, settings=BRIEF, progress=False, tokenizer=result.tokenizer)
    assert again.model is result.model
    assert finetune_classifier(tmp_path, "sst2", sst2, settings=BRIEF, progress=False).metrics == again.metrics


def test_a_regression_has_correlations_and_no_majority(masked_lm: Path, glue_folder: Callable[..., Path]) -> None:
    """STS-B: one output, mean squared error, learnt well enough to correlate."""
    settings = TrainingSettings(max_steps=40, learning_rate=3e-3, batch_size=16)
    data = glue_folder("stsb", n=48)
    result = finetune_classifier(masked_lm, "stsb", data, settings=settings, progress=False)
    assert result.model.config.problem_type == "regression"
    assert result.metrics["headline"] == {"name": "spearman", "value": result.metrics["metrics"]["spearman"]}
    assert result.metrics["metrics"]["pearson"] > 0.9
    assert [result.metrics[key] for key in ("accuracy", "majority_baseline", "beats_majority")] == [None] * 3


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "roberta"])
def test_other_families_are_fine_tuned(family: str, glue_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Without a padding token of its own, as in GPT-2's way, a tokenizer pads with the end of text."""
    model = save_tiny_folder(tmp_path, family)
    if family == "gpt2":
        model.config.pad_token_id = None
        model.config.save_pretrained(tmp_path)
        tokenizer = tiny_tokenizer()
        tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
        tokenizer.save_pretrained(tmp_path)
    data = glue_folder("rte", n=16)
    result = finetune_classifier(tmp_path, "rte", data, settings=BRIEF, progress=False)
    assert result.metrics["examples"] == 16
    assert result.model.config.pad_token_id == result.tokenizer.pad_token_id


def test_only_the_seed_decides_a_new_head_and_its_report_is_held_back(masked_lm: Path, reports: list[str]) -> None:
    """The head of a masked language model is not wanted and the classifier's is new: no news."""

    def head(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)
        task = glue_task("sst2")
        model = load_classifier(masked_lm, task, tokenizer=tiny_tokenizer(), new_head=True, seed=seed)
        return model.pre_classifier.weight.detach()

    assert torch.equal(head(3), head(3))
    assert not torch.equal(head(3), head(4))
    assert reports == []


def test_weights_that_are_not_used_are_reported(masked_lm: Path, tmp_path: Path, reports: list[str]) -> None:
    """A third layer that the configuration does not have is news."""

    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["distilbert.transformer.layer.2.ffn.lin1.bias"] = torch.ones(64)

    folder = change_weights(masked_lm, tmp_path / "more", add)
    load_classifier(folder, glue_task("sst2"), tokenizer=tiny_tokenizer(), new_head=True)
    assert any("LOAD REPORT" in report and "layer.2" in report for report in reports)


def test_weights_that_are_missing_are_refused(masked_lm: Path, classifier: Path, sst2: Path, tmp_path: Path) -> None:
    """They would be random: the encoder's when a head is new, any when none is."""
    name = "distilbert.transformer.layer.1.ffn.lin1.weight"
    folder = change_weights(masked_lm, tmp_path / "encoder", lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"lacks 1 weights of DistilBert.*{name}; they would be random"):
        finetune_classifier(folder, "sst2", sst2, settings=BRIEF)
    folder = change_weights(classifier, tmp_path / "head", lambda tensors: tensors.pop("classifier.bias"))
    with pytest.raises(CheckpointError, match=r"lacks 1 weights .* among them classifier\.bias"):
        score_classifier(folder, "mnli", sst2)


def test_weights_of_another_shape_are_refused_with_the_report(masked_lm: Path, sst2: Path, tmp_path: Path) -> None:
    """The report that is held back is in the message."""
    name = "distilbert.embeddings.position_embeddings.weight"
    folder = change_weights(masked_lm, tmp_path / "shape", lambda tensors: tensors.update({name: torch.ones(3, 32)}))
    with pytest.raises(CheckpointError, match=r"(?s)cannot be loaded as a classifier.*position_embeddings.*MISMATCH"):
        finetune_classifier(folder, "sst2", sst2, settings=BRIEF)


def test_a_truncated_file_is_refused(masked_lm: Path, sst2: Path, tmp_path: Path) -> None:
    """Half a weights file."""
    shutil.copytree(masked_lm, tmp_path / "half")
    file = tmp_path / "half" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded as a classifier"):
        finetune_classifier(tmp_path / "half", "sst2", sst2, settings=BRIEF)


def test_a_model_that_does_not_fit_the_task_is_refused(
    classifier: Path, masked_lm: Path, sst2: Path, tokenizer: Any
) -> None:
    """Another number of labels, and no head at all, say what to do."""
    message = "predicts 3 labels, sst2 has 2\nhint: a model fine-tuned on sst2"
    model = tiny_model("distilbert", head="classifier")
    with pytest.raises(DataError, match=message):
        score_classifier(classifier, "sst2", sst2)
    with pytest.raises(DataError, match=message):
        score_classifier(model, "sst2", sst2, tokenizer=tokenizer)
    with pytest.raises(DataError, match=message):
        finetune_classifier(model, "sst2", sst2, settings=BRIEF, tokenizer=tokenizer)
    with pytest.raises(DataError, match="DistilBertForMaskedLM, without a trained head\nhint: fine-tune it on sst2"):
        score_classifier(masked_lm, "sst2", sst2)


def test_a_model_without_a_tokenizer_is_refused(sst2: Path, glue_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A folder for which transformers would make up an empty one, and an object."""
    model = tiny_model("distilbert", head="classifier")
    model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="has no tokenizer"):
        score_classifier(tmp_path, "mnli", sst2)
    with pytest.raises(DataError, match="without its tokenizer\nhint: pass tokenizer="):
        score_classifier(model, "mnli", glue_folder("mnli", n=6))


def test_models_that_do_not_exist_are_named(tmp_path: Path, sst2: Path) -> None:
    """A folder, a name on the hub, a folder with a tokenizer alone."""
    with pytest.raises(ModelNotFoundError, match=r"no folder '.*none'"):
        score_classifier(tmp_path / "none", "sst2", sst2)
    with pytest.raises(ModelNotFoundError, match="no transformers model in 'owner/none'"):
        score_classifier("owner/none", "sst2", sst2, tokenizer=tiny_tokenizer())
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="no transformers model in"):
        score_classifier(tmp_path, "sst2", sst2)


def test_the_real_model_learns_from_real_rows(data_root: Path) -> None:
    """64 rows of SST-2 seen often: minibert knows them by heart; the generated twins are above."""
    glue, minibert = data_root / "data" / "glue", data_root / "models" / "minibert"
    settings = TrainingSettings(max_steps=12, learning_rate=1e-3, batch_size=32)
    result = finetune_classifier(minibert, "sst2", glue, settings=settings, max_train_examples=64, progress=False)
    assert result.metrics["examples"] == 872
    assert result.metrics["majority_baseline"] == pytest.approx(444 / 872)
    scores = score_classifier(
        result.model, "sst2", glue, split="train", max_examples=64, tokenizer=load_tokenizer(minibert)
    )
    assert scores["accuracy"] > 0.9
