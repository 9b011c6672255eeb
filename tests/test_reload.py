"""Folders read by transformers in a new process: the same bits with foldflat, an error without it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import foldflat
from tests.processes import in_new_process, read_with_transformers
from tests.tiny import FAMILIES, tiny_inputs, tiny_model

# `saved` holds the models of all cases, read by one new process
pytestmark = pytest.mark.xdist_group("reload")

CASES = [(family, tied, "subspaces") for family in FAMILIES for tied in (True, False)] + [
    (family, True, method) for family in ("bert", "gpt2") for method in ("svd", "int8", "int4", "mixed")
]

CASES_AND_CLASSES = """
import json, sys, torch, transformers
cases = [(folder, getattr(transformers, kind), again) for folder, kind, again in json.load(open(sys.argv[1]))]
refused = [
    (path, loader)
    for folder, kind, again in cases for path in (folder, again) for loader in (kind, transformers.AutoModel)
]
"""

READ_AND_SAVE_AGAIN = """
for folder, kind, again in cases:
    inputs = load_file(folder + "/../inputs.safetensors")
    model = kind.from_pretrained(folder)
    with torch.no_grad():
        save_file({"logits": model(**inputs).logits}, folder + "/../reloaded.safetensors")
    model.save_pretrained(again)
    model = kind.from_pretrained(again)
    with torch.no_grad():
        save_file({"logits": model(**inputs).logits}, folder + "/../again.safetensors")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool, str], Path]:
    """Save a compressed, then perturbed ("trained") model of every case and read all of them in one new process."""
    root = tmp_path_factory.mktemp("families")
    folders, cases = {}, []
    for number, (family, tied, method) in enumerate(CASES):
        place = root / f"{family}-{tied}-{method}"
        model = tiny_model(family, tied=tied)
        recipe = {"coefficients": method, "budget_bytes": 12_000} if method == "mixed" else {"method": method}
        result = foldflat.compress(model, foldflat.EmbeddingRecipe(**recipe))
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in result.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
        foldflat.save(result, place / "saved")
        inputs = tiny_inputs(model)
        save_file(inputs, place / "inputs.safetensors")
        with torch.no_grad():
            save_file({"logits": result.model(**inputs).logits}, place / "expected.safetensors")
        folders[family, tied, method] = place
        cases.append([str(place / "saved"), type(model).__name__, str(place / "saved-again")])
    (root / "cases.json").write_text(json.dumps(cases))
    read_with_transformers(CASES_AND_CLASSES, READ_AND_SAVE_AGAIN, root / "cases.json")
    return folders


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_a_reloaded_model_gives_the_same_bits_also_after_saving_it_again(
    saved: dict[tuple[str, bool, str], Path], case: tuple[str, bool, str]
) -> None:
    """A new process in another working directory computes logits equal bit for bit."""
    expected, reloaded, again = (
        load_file(saved[case] / f"{name}.safetensors")["logits"] for name in ("expected", "reloaded", "again")
    )
    assert torch.equal(expected, reloaded)
    assert torch.equal(expected, again)


def test_loading_without_foldflat_is_an_error_never_random_weights(
    saved: dict[tuple[str, bool, str], Path],
) -> None:
    """Plain transformers found no weights file in any of the folders, first saved or saved again."""
    assert (next(iter(saved.values())).parent / "cases.json.refused").exists()


def test_the_loader_registers_whether_transformers_comes_before_or_after(
    saved: dict[tuple[str, bool, str], Path],
) -> None:
    """`import foldflat` first does not import transformers, and still registers with it later."""
    place = saved["bert", True, "subspaces"]
    script = (
        "import sys, foldflat\nassert 'transformers' not in sys.modules\nimport transformers\n"
        f"transformers.AutoModelForMaskedLM.from_pretrained({str(place / 'saved')!r})\n"
    )
    in_new_process(script)


def test_the_base_model_of_a_saved_model_with_a_head_loads(saved: dict[tuple[str, bool, str], Path]) -> None:
    """AutoModel strips the head's prefix from the names in the config, as it does for plain folders."""
    from transformers import AutoModel

    place = saved["distilbert", True, "subspaces"]
    inputs: dict[str, Any] = load_file(place / "inputs.safetensors")
    whole = foldflat.load(place / "saved")
    base = AutoModel.from_pretrained(place / "saved")
    with torch.no_grad():
        expected = whole.distilbert(**inputs).last_hidden_state
        assert torch.equal(base(**inputs).last_hidden_state, expected)


def test_what_the_saved_config_says_never_names_a_weights_file(saved: dict[tuple[str, bool, str], Path]) -> None:
    """A `transformers_weights` entry would make plain transformers load the file with random embeddings."""
    for place in saved.values():
        for name in ("saved", "saved-again"):
            config = json.loads((place / name / "config.json").read_text())
            assert "transformers_weights" not in config
            assert config["quantization_config"]["quant_method"] == "foldflat"


def test_a_half_precision_load_and_half_keep_working(saved: dict[tuple[str, bool, str], Path]) -> None:
    """`dtype=bfloat16` applies to the factors too, and `.half()` is not refused as for other quantized models."""
    from transformers import AutoModelForCausalLM

    place = saved["gpt2", True, "subspaces"]
    inputs: dict[str, Any] = load_file(place / "inputs.safetensors")
    expected = load_file(place / "expected.safetensors")["logits"]
    model = AutoModelForCausalLM.from_pretrained(place / "saved", dtype=torch.bfloat16)
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).norm() < 0.05 * expected.norm()
    assert next(model.half().parameters()).dtype == torch.float16
