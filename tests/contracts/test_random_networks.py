"""Whatever small transformer and recipe are drawn: the file is the same network, for onnxruntime and for onnx's own evaluator."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import qpass
from qpass.data import ModelInputs
from tests.contracts.reference_evaluator import check_with_reference_evaluator
from tests.random.parts import PHASES, in_parts, run_part
from tests.random.recipes import recipes
from tests.random.transformers import Shape, build, shapes

COMMON = {"phases": PHASES, "deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}


#: Files for this processor's kernels, and those that are exact on every one.
WEIGHT_TYPES = st.sampled_from(["auto", "uint8"])


def check(shape: Shape, recipe: dict[str, Any], weight_type: str) -> None:
    """Quantizes, exports, verifies and evaluates one case."""
    x = torch.randn(8, shape.tokens, 6, generator=torch.Generator().manual_seed(shape.seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = qpass.quantize_graph(build(shape), [x[:4], x[4:]], recipe, progress=False)
        with tempfile.TemporaryDirectory() as folder:
            path = qpass.export_onnx(graph, Path(folder) / "model.onnx", weight_type=weight_type)
            verified = qpass.verify_onnx(graph, path, x, strict=False)
            assert verified.passed, str(verified)
            assert torch.isfinite(graph(x)).all()
            check_with_reference_evaluator(graph, path, ModelInputs((x,), {}))


#: LayerNorms over two channels, whose outputs are all but equal, and few probabilities times few codes: dozens of values on ties.
TWO_CHANNELS = Shape(1, 2, 9, 2, 20, "written-out", "bias", "parallel", "silu", True, True, True, True, 1.0, 407)
TWO_CHANNELS_AND_OUTLIER = Shape(1, 2, 5, 2, 3, "fused", "padding", "scaled", "silu", True, False, True, False, 1e3, 1500)
TWO_TOKENS = Shape(1, 8, 2, 2, 8, "separate", "causal", "post-norm", "gelu-tanh", False, False, True, False, 30.0, 2)
COARSE_SOFTMAX = Shape(2, 8, 9, 1, 3, "written-out", "none", "pre-norm", "gelu", False, True, True, True, 1e3, 2)


@pytest.mark.slow
@given(shapes(), recipes(), WEIGHT_TYPES)
@example(TWO_CHANNELS, {"preset": "repq-vit-w8a5"}, "auto")
@example(TWO_CHANNELS_AND_OUTLIER, {"preset": "w5a2", "fold_layer_norm": "median", "rules": {"head": None}}, "auto")
@example(TWO_TOKENS, {"preset": "w7a2", "rotate_heads": False, "budget": None, "rules": {"head": None}}, "auto")
@example(COARSE_SOFTMAX, {"preset": "dopq-vit-w2a2", "reconstruction": {"steps": 2, "batch_size": 4}}, "auto")
@settings(max_examples=4, derandomize=True, **COMMON)
def test_any_transformer_and_recipe(shape: Shape, recipe: dict[str, Any], weight_type: str) -> None:
    check(shape, recipe, weight_type)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@in_parts
def test_five_hundred_transformers_and_recipes(part: int) -> None:
    run_part(part, check, shapes(), recipes(), WEIGHT_TYPES, **COMMON)
