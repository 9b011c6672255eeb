"""Check that a pruned network goes on to other runtimes."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.model.nets import built, images

import foldflat

ABSENT = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]


@pytest.mark.skipif(bool(ABSENT), reason=f"the extra [onnx] is not installed: no {', '.join(ABSENT)}")
@pytest.mark.parametrize("method", ["l2", "reconstruction"])
def test_a_pruned_network_runs_in_onnxruntime(tmp_path: Path, method: str) -> None:
    """Exported without any help of ours, it gives the same outputs, for another number of images too."""
    import onnxruntime

    result = foldflat.compress(built("residual"), foldflat.FilterRecipe(keep_ratio=0.5, method=method), images(8))
    assert result.report["parameters_after"] <= 0.5 * result.report["parameters_before"]
    file = tmp_path / "pruned.onnx"
    with warnings.catch_warnings():
        # torch's exporter uses names that torch and the standard library are about to drop
        warnings.simplefilter("ignore")
        batch = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(result.model, (images(2),), file, dynamo=True, dynamic_shapes=batch, verbose=False)
    session: Any = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (2, 5):
        inputs = images(count, seed=1)
        with torch.no_grad():
            expected = result.model(inputs).numpy()
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        assert expected.shape == (count, 5)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
