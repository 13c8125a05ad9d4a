"""What every deployed file must satisfy, whatever recipe it came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime import OrtSession
from qpass.data import ModelInputs
from qpass.errors import LoweringError
from tests.contracts.reference_evaluator import check_with_reference_evaluator

PAIRS = [("quantized", "exported"), ("quantized_4bit", "exported_4bit"), ("quantized_codebook", "exported_codebook")]


@pytest.fixture(params=PAIRS, ids=["w8a8", "repq-vit-w4a4", "codebook-w3a3"])
def pair(request: pytest.FixtureRequest) -> tuple[fx.GraphModule, Path]:
    graph, path = request.param
    return request.getfixturevalue(graph), request.getfixturevalue(path)


def test_both_verifications_pass(pair: tuple[fx.GraphModule, Path], images: Tensor) -> None:
    report = qpass.verify_onnx(*pair, images)
    assert report.passed
    assert [check.name for check in report.checks] == ["as written", "as shipped"]
    assert sum(layer.codes for layer in report.checks[0].layers) > 10_000


def test_the_reference_evaluator_agrees(pair: tuple[fx.GraphModule, Path], images: Tensor) -> None:
    check_with_reference_evaluator(*pair, ModelInputs((images,), {}))


def test_the_batch_is_dynamic(pair: tuple[fx.GraphModule, Path], images: Tensor) -> None:
    session = OrtSession(pair[1])
    for batch in (1, 3, 8):
        assert session(images[:batch]).shape == (batch, 10)


def test_standard_domain_names_and_checker(pair: tuple[fx.GraphModule, Path]) -> None:
    model = onnx.load(pair[1])
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert [entry.domain for entry in model.opset_import] == [""]
    assert [value.name for value in model.graph.input] == ["x"]
    assert [value.name for value in model.graph.output] == ["output"]


def test_no_float_copy_of_a_quantized_weight(pair: tuple[fx.GraphModule, Path], vit: nn.Module) -> None:
    """What is float in the file is biases, LayerNorms, scales, the class token and the position embedding."""
    _, path = pair
    floats = [t for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    allowed = {tuple(vit.get_parameter(n).shape) for n in ("cls_token", "pos_embed")}
    assert all(len([d for d in t.dims if d != 1]) <= 1 or tuple(t.dims) in allowed for t in floats)


def test_every_product_runs_on_integers(quantized: fx.GraphModule, exported: Path) -> None:
    from qpass.backends.onnxruntime.latency import fusion_of

    fusion = fusion_of(exported)
    assert sum(fusion.integer.values()) == 1 + 9 + 4  # patch embedding, Linears, attention matmuls
    assert fusion.float == {}
    assert fusion.unfused == []


def test_four_bit_weights_are_packed(exported_4bit: Path) -> None:
    weights = [t for t in onnx.load(exported_4bit).graph.initializer if t.name.endswith("weight_codes.int4")]
    assert len(weights) == 10
    for tensor in weights:
        assert tensor.data_type == onnx.TensorProto.INT4
        assert len(tensor.raw_data) == -(-int(np.prod(tensor.dims)) // 2)


def test_a_module_without_lowering_fails_with_the_list_of_those_that_have_one(
    quantized: fx.GraphModule, tmp_path: Path
) -> None:
    import copy

    from qpass.quantizers import Uniform

    class Unknown(Uniform):
        pass

    graph = copy.deepcopy(quantized)
    name = next(n for n, m in graph.named_children() if isinstance(m, Uniform))
    unknown = Unknown(8)
    unknown.load_state_dict(getattr(graph, name).state_dict())
    setattr(graph, name, unknown)
    with pytest.raises(LoweringError, match=r"no ONNX lowering for Unknown; expected one of .*Uniform.*register_lowering"):
        qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_torch_inputs_come_back_as_torch_outputs(exported: Path, images: Tensor) -> None:
    output = OrtSession(exported)(images)
    assert isinstance(output, torch.Tensor)
