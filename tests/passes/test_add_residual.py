from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime import OrtSession
from qpass.backends.onnxruntime.latency import fusion_of
from qpass.compiler.pipeline import pipeline
from qpass.data import ModelInputs
from qpass.graph.capture.trace import trace
from qpass.graph.facts import facts_of
from qpass.nn import ResidualFactor
from qpass.passes import AddResidual
from qpass.passes.add_residual import gram, low_rank
from qpass.passes.analysis.reference import float_reference
from qpass.quantizers import Uniform
from tests.learning import UNCOMPENSATED

LEARNING = {"ranks": [4], "steps": 30, "batch_size": 8, "precision": "float32"}


def recipe(rank: int, preset: str = "w3a8") -> dict[str, object]:
    return {
        "preset": preset,
        "rotate_heads": False,
        "rotate_residual": False,
        **UNCOMPENSATED,
        "weight": {"residual_rank": rank},
    }


def error(graph: nn.Module, model: nn.Module, x: Tensor) -> float:
    expected = model(x)
    return ((graph(x) - expected).square().sum() / expected.square().sum()).item()


@pytest.fixture(scope="module")
def many_images() -> Tensor:
    return torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def with_residual(vit: nn.Module, many_images: Tensor) -> fx.GraphModule:
    return qpass.quantize_graph(vit, [many_images], recipe(8), progress=False)


def test_no_pair_of_that_rank_is_better_in_the_metric() -> None:
    """Eckart and Young: what is left are the last singular values of E G^(1/2), here with the symmetric square root."""
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(50, 5, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1, 1, 0.1, 2])
    g = gram([x.view(5, 10, 5)])
    a, b = low_rank(e, g, 2)
    rest = e - b @ a
    values, vectors = torch.linalg.eigh(g)
    root = vectors @ values.sqrt().diag() @ vectors.T
    least = torch.linalg.svdvals(e @ root)[2:].square().sum()
    torch.testing.assert_close((rest @ g @ rest.T).trace(), least)
    torch.testing.assert_close(a @ g @ a.T, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(g, x.T @ x / 50, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_more_rank_leaves_less_error(vit: nn.Module, many_images: Tensor, with_residual: fx.GraphModule) -> None:
    none, full = (qpass.quantize_graph(vit, [many_images], recipe(rank), progress=False) for rank in (0, 48))
    errors = [error(graph, vit, many_images) for graph in (none, with_residual, full)]
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.2 * errors[0]


def test_a_rule_gives_one_layer_a_branch(vit: nn.Module, many_images: Tensor) -> None:
    config = {"preset": "w3a8", **UNCOMPENSATED, "rules": {"blocks.1.mlp.fc1": {"weight": {"residual_rank": 4}}}}
    graph = qpass.quantize_graph(vit, [many_images], config, progress=False)
    names = {name for name, module in graph.named_modules() if isinstance(module, ResidualFactor)}
    assert {name.partition("_quantized")[0] for name in names} == {"blocks_1_mlp_fc1"}
    report = qpass.quantization_report(graph)
    assert {row.path: row.residual_rank for row in report.layers if row.residual_rank} == {"blocks.1.mlp.fc1": 4}


@pytest.mark.slow
def test_the_report_measures_a_layer_with_its_branch(vit: nn.Module, many_images: Tensor) -> None:
    sqnr = []
    for rank in (0, 16):
        config = {
            "preset": "w3a8",
            "rotate_residual": False,
            **UNCOMPENSATED,
            "rules": {"blocks.0.attn.qkv": {"weight": {"residual_rank": rank}}},
        }
        report = qpass.quantization_report(qpass.quantize_graph(vit, [many_images], config, progress=False))
        sqnr.append(next(row.sqnr_db for row in report.layers if row.path == "blocks.0.attn.qkv"))
    assert sqnr[1] > sqnr[0] + 2


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("preset", ["w2a8", "w3a3", "w3a8"])
def test_the_branch_shares_zero_point_and_scale_with_the_product_beside_it(
    vit: nn.Module, many_images: Tensor, preset: str
) -> None:
    graph = qpass.quantize_graph(vit, [many_images], recipe(4, preset), progress=False)
    m = 2 ** (7 - int(preset[1]))
    for name in ("blocks_0_attn_qkv_quantized", "blocks_1_mlp_fc1_quantized"):
        (linear,) = [node for node in graph.graph.nodes if node.target == name]
        reads, t = (graph.get_submodule(str(target)) for target in (linear.args[0].target, f"{name}_residual_codes"))
        layer, up = graph.get_submodule(name), graph.get_submodule(f"{name}_residual_up")
        assert reads.zero_point == t.zero_point
        product = reads.scale.double() * layer.quantizer.scale.double()
        torch.testing.assert_close(m * t.scale.double() * up.quantizer.scale.double(), product, rtol=1e-6, atol=0)


def test_the_float_network_has_no_branch(vit: nn.Module, many_images: Tensor) -> None:
    graph = trace(vit, (many_images,))
    config = qpass.QuantConfig.from_any(recipe(8))
    for step in pipeline(config, [ModelInputs((many_images,), {})])[:-1]:
        step(graph)
    assert any(isinstance(module, ResidualFactor) for module in graph.modules())
    torch.testing.assert_close(float_reference(graph)(many_images), vit(many_images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "apart"), [("mixed-w3a5", ["head"]), ("w3a8", ["blocks.0.mlp.fc2", "blocks.1.mlp.fc2", "head"])]
)
def test_the_file_holds_one_product_for_both_and_passes(
    vit: nn.Module, many_images: Tensor, tmp_path: Path, preset: str, apart: list[str]
) -> None:
    """Apart stay the head, which has one row, and 8-bit inputs whose zero point lies far from the middle (behind a GELU)."""
    graph = qpass.quantize_graph(vit, [many_images], recipe(8, preset), progress=False)
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, many_images[:8]).passed
    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    assert len(stored["blocks_0_attn_qkv_quantized.weight_codes.runs_of_3_bits"].raw_data) == 2 * 48 * -(-144 // 5), (
        "packed as without a branch"
    )
    session = OrtSession(path, keep_graph=True)
    assert session.optimized_graph is not None
    products = [node for node in session.optimized_graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) == 8 + 1 + 1 + len(apart)  # the Linears of both blocks, the patches and the head
    assert not any(node.op_type in ("MatMul", "Gemm", "Mod") for node in session.optimized_graph.node)
    assert not fusion_of(path).unfused


@pytest.mark.slow
def test_learning_goes_on_from_the_branch(vit: nn.Module, many_images: Tensor, tmp_path: Path) -> None:
    config = {"preset": "aiqvit-w3a4", "weight": {"residual_rank": 4}, "reconstruction": LEARNING}
    graph = qpass.quantize_graph(vit, [many_images], config, progress=False)
    still = qpass.quantize_graph(vit, [many_images], {**config, "reconstruction": None}, progress=False)
    for row in facts_of(graph).report.reconstruction:
        assert row.error_after < 0.98 * row.error_before
    name = "blocks_0_attn_qkv_quantized_residual_up.codes"
    assert not torch.equal(graph.state_dict()[name], still.state_dict()[name])
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, many_images[:8]).passed
    again = qpass.load(qpass.save(graph, tmp_path / "model.qpass"))
    assert torch.equal(again(many_images), graph(many_images))


def test_without_a_rank_the_pass_does_nothing(vit: nn.Module, many_images: Tensor) -> None:
    graph = trace(vit, (many_images,))
    changed = {
        type(step): step(graph) for step in pipeline(qpass.QuantConfig.from_any("w3a8"), [ModelInputs((many_images,), {})])
    }
    assert changed[AddResidual] is False
    assert all(module.first_code == 0 for module in graph.modules() if isinstance(module, Uniform))
