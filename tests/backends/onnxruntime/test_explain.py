from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from qpass.backends.onnxruntime import OrtSession, explain
from qpass.cli import main
from qpass.errors import ConfigError, LoweringError


def test_every_node_of_the_optimised_graph_is_counted_once(exported: Path) -> None:
    found = explain(exported, batch=2, runs=3)
    operators = OrtSession(exported, keep_graph=True).operators
    assert {cost.operator: cost.count for cost in found.operators} == {op: operators.count(op) for op in set(operators)}
    assert sum(cost.share for cost in found.operators) == pytest.approx(1)
    assert sum(cost.milliseconds for cost in found.operators) == pytest.approx(found.milliseconds)
    costs = [cost.milliseconds for cost in found.operators]
    assert costs == sorted(costs, reverse=True)
    assert found.unfused == ()
    assert "Every Q/DQ pair fused." in str(found)
    assert found.share_of("float product") == 0


def test_the_multiply_adds_are_those_of_the_network(exported: Path, vit: nn.Module, images: Tensor) -> None:
    """Against torch's own count for the float network: every product runs on integers, attention included."""
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        vit(images[:2])
    # The last block computes its projection, MLP and attention for the class token alone.
    tokens, width = vit.pos_embed.shape[1:]  # type: ignore[union-attr]
    left_out = 2 * (tokens - 1) * (5 * width**2 + 2 * tokens * width)
    found = explain(exported, batch=2, runs=1)
    assert 2 * (sum(cost.multiply_adds for cost in found.operators) + left_out) == counter.get_total_flops()
    assert found.integer_arithmetic == 1
    assert 0 < found.share_of_peak(found.milliseconds) <= found.share_of_peak()
    assert "100.0% of the multiply-adds are done on integers" in str(found)


def test_what_did_not_fuse_is_named_with_its_reason(exported_4bit: Path) -> None:
    """A logarithmic Softmax code is turned to a float by Exp, and its product with V stays float."""
    found = explain(exported_4bit, runs=2)
    reasons = [item.reason for item in found.unfused]
    assert any(reason.startswith("Exp") and "no integer kernel" in reason for reason in reasons)
    assert any("MatMul" in reason and "its other factor is float" in reason for reason in reasons)
    assert f"{len(found.unfused)} DequantizeLinear did not fuse:" in str(found)


def test_a_product_of_two_dequantized_factors_is_told_apart(tmp_path: Path) -> None:
    """16-bit codes: onnxruntime dequantizes them and multiplies floats."""
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[1,4,8] x, float[1,8,4] w) => (float[1,4,4] y)
    <float s = {0.1}, uint16 z = {32768}> {
      q = QuantizeLinear(x, s, z)
      d = DequantizeLinear(q, s, z)
      v = QuantizeLinear(w, s, z)
      e = DequantizeLinear(v, s, z)
      y = MatMul(d, e)
    }"""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    found = explain(path, runs=1)
    assert len(found.unfused) == 2
    assert all("both factors are dequantized" in item.reason for item in found.unfused)
    assert found.share_of("float product") > 0


def test_the_command_prints_it_without_a_float_file(exported: Path) -> None:
    plain = CliRunner().invoke(main, ["bench", str(exported), "--explain", "--runs", "2"])
    assert plain.exit_code == 0, plain.output
    assert "integer product" in plain.output
    as_json = CliRunner().invoke(
        main, ["bench", str(exported), "--explain", "--runs", "1", "--batch", "1", "--batch", "2", "--json"]
    )
    assert [each["batch"] for each in json.loads(as_json.output)] == [1, 2]


def test_bad_arguments_are_refused(exported: Path) -> None:
    with pytest.raises(ConfigError, match="runs=0"):
        explain(exported, runs=0)
    with pytest.raises(LoweringError, match="cannot load it"):
        explain(Path(__file__))
