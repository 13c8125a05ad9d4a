"""OpenVINO's execution graph, read for the products of a file."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from torch import Tensor, fx, nn

import qpass
from qpass.backends.openvino import explain_in_openvino
from qpass.backends.openvino.explain import ExecutedNode, ExecutedProduct, OpenVinoExplanation
from qpass.cli import main
from qpass.errors import ConfigError

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def path(quantized: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qpass.export_onnx(quantized, tmp_path_factory.mktemp("openvino") / "m.onnx", target="openvino")


def test_every_product_is_found_with_its_precision(path: Path) -> None:
    found = explain_in_openvino(path, batch=2, runs=2)
    wanted = [node.name for node in onnx.load(path).graph.node if node.op_type == "MatMul"]
    assert [product.name for product in found.products] == wanted
    linears = [product for product in found.products if product.operator == "FullyConnected"]
    assert len(linears) == 10, "4 in each of 2 blocks, patch embedding and head"
    assert {product.precision for product in linears} == {"u8"}
    assert set(found.float_products) == {product for product in found.products if product not in linears}, "attention"
    assert found.milliseconds == pytest.approx(sum(node.milliseconds for node in found.executed))
    assert found.milliseconds > 0
    assert json.loads(json.dumps(found.to_dict()))["batch"] == 2


@pytest.mark.slow
def test_fused_attention_runs_on_integers(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    """A product that no operator names is fused into what reads it: Q K into the operator that multiplies by V."""
    counts = {}
    for fused in (False, True):
        graph = qpass.quantize_graph(vit, [images], {"preset": "w8a8", "fused_attention": fused}, progress=False)
        path = qpass.export_onnx(graph, tmp_path / "m.onnx", target="openvino")
        report = qpass.verify_onnx(graph, path, images, runtime="openvino")
        assert report.checks[-1].sqnr_db > 30
        found = explain_in_openvino(path, runs=1)
        assert len(found.products) == 14
        counts[fused] = len(found.float_products)
        attention = [product for product in found.products if product.operator == "Subgraph"]
        assert len(attention) == 4
    assert counts == {False: 4, True: 0}


def test_a_float_file_has_no_integer_product(quantized: fx.GraphModule, images: Tensor, tmp_path: Path) -> None:
    from qpass.backends.onnx_qdq import export_float
    from qpass.graph.capture.trace import trace
    from tests.models import small_vit

    found = explain_in_openvino(export_float(trace(small_vit(), (images,)), tmp_path / "float.onnx"), runs=1)
    assert found.products
    assert found.float_products == found.products


def test_the_text_says_what_did_not_run_on_integers() -> None:
    nodes = (ExecutedNode("FullyConnected", "u8", 3.0, ("a",)), ExecutedNode("Subgraph", "f32", 1.0, ("b", "softmax")))
    products = (ExecutedProduct("a", "FullyConnected", "u8"), *(ExecutedProduct(f"b{n}", "Subgraph", "f32") for n in range(11)))
    text = str(OpenVinoExplanation("m.onnx", 1, 1, 4.0, nodes, (*products, ExecutedProduct("c", "", ""))))
    assert "4.00 ms in operators, batch 1, 1 thread(s); 1 of 13 products on integers" in text
    assert "FullyConnected                   u8             1    3.000  75.0%" in text
    assert "12 products did not run on integers:\n  b0: Subgraph, f32" in text
    assert text.endswith("and 2 more")
    assert str(OpenVinoExplanation("m.onnx", 1, 1, 4.0, nodes, products[:1])).endswith("Every product ran on integers.")


def test_counts_must_be_positive(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch=0, threads=1, runs=20; expected numbers above 0"):
        explain_in_openvino(path, batch=0)


def test_the_command_shows_it(path: Path) -> None:
    shown = CliRunner().invoke(main, ["bench", str(path), "--explain", "--runtime", "openvino", "--runs", "1"])
    assert shown.exit_code == 0, shown.output
    assert "products on integers" in shown.output
    refused = CliRunner().invoke(main, ["bench", str(path), "--baseline", str(path), "--runtime", "openvino"])
    assert refused.exit_code == 2
    assert "--runtime openvino without --explain" in refused.output
