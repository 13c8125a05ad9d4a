"""Names of what layers give, in the graph and in the file."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnx_qdq.layer_outputs import OUTPUT, layer_outputs


def test_nodes_have_the_names_and_outputs_keep_theirs(quantized: fx.GraphModule, exported: Path) -> None:
    model = onnx.load(exported)
    named = [node.name for node in model.graph.node if node.name.endswith(OUTPUT)]
    assert named == [name + OUTPUT for name in layer_outputs(quantized)]
    assert [value.name for value in model.graph.output] == ["output"]
    assert model.graph.node[-1].name == f"head_quantized{OUTPUT}"
    assert not any(name.endswith(OUTPUT) for node in model.graph.node for name in node.output), "values have short names"


class Tied(nn.Module):
    """One layer twice, also as an output, and a product of activations that is only quantized again."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.layer(x)
        second = self.layer(first.relu())
        scores = (second @ first.mT) * 0.25
        return {"first": first, "scores": scores, "last": self.last(second.mT.softmax(-1).mT @ second)}


def test_a_layer_that_is_called_twice_has_two_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16, 16)
    graph = qpass.quantize_graph(Tied().eval(), [x], "w8a8", progress=False)
    outputs = layer_outputs(graph)
    layers = [name for name, node in outputs.items() if node.op == "call_module"]
    assert len(layers) == 3
    assert sum(name.startswith("layer") for name in layers) == 2
    (product,) = set(outputs) - set(layers)
    assert outputs[product].target in (torch.ops.aten.mul.Tensor, torch.ops.aten.mul.Scalar), "with its scale"
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert [value.name for value in onnx.load(path).graph.output] == ["first", "scores", "last"]
    report = qpass.verify_onnx(graph, path, x)
    assert {layer.layer for layer in report.checks[0].layer_outputs} == set(outputs)
    assert report.left_out == ()
