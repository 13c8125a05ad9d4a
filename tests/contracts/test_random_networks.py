"""Whatever small transformer and recipe are drawn: the file is the same network, for onnxruntime and for onnx's own evaluator."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import qpass
from tests.contracts.test_backends import without_casts
from tests.random_networks import Shape, build, recipes, shapes

#: All phases but the one that traces every line to explain a failure, which takes longer than the cases themselves.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
COMMON = {"phases": PHASES, "deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


class GatherElements(OpRun):
    """onnx's own fails for more than 64 values."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> tuple[np.ndarray]:
        return (np.take_along_axis(data, indices.astype(np.int64), axis),)


def evaluate(path: Path, x: torch.Tensor) -> np.ndarray:
    """Returns what onnx's reference evaluator makes of a file."""
    (output,) = ReferenceEvaluator(without_casts(onnx.load(path)), new_ops=[GatherElements]).run(None, {"x": x.numpy()})
    return output


def check(shape: Shape, recipe: dict[str, Any]) -> None:
    """Quantizes, exports, verifies and evaluates one case."""
    x = torch.randn(8, shape.tokens, 6, generator=torch.Generator().manual_seed(shape.seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = qpass.quantize_graph(build(shape), [x[:4], x[4:]], recipe, progress=False)
        with tempfile.TemporaryDirectory() as folder:
            path = qpass.export_onnx(graph, Path(folder) / "model.onnx")
            verified = qpass.verify_onnx(graph, path, x, strict=False)
            evaluated = evaluate(path, x)
    assert verified.passed, str(verified)
    expected = graph(x).numpy()
    assert np.isfinite(expected).all()
    # A code that flips on a tie moves an output by a few percent; another network's outputs have nothing in common with it.
    assert np.linalg.norm(evaluated - expected) <= 0.1 * np.linalg.norm(expected)


@given(shapes(), recipes())
@settings(max_examples=25, derandomize=True, **COMMON)
def test_any_transformer_and_recipe(shape: Shape, recipe: dict[str, Any]) -> None:
    check(shape, recipe)


@pytest.mark.nightly
@pytest.mark.timeout(4 * 3600)
@given(shapes(), recipes())
@settings(max_examples=500, **COMMON)
def test_five_hundred_transformers_and_recipes(shape: Shape, recipe: dict[str, Any]) -> None:
    check(shape, recipe)
