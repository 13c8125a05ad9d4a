from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qpass

KEYS = ("global", "class", "None", "my-key", "0first", "a b", 'quo"te', "back\\slash", "ü", "µ")
ATTRIBUTES = ("graph", "code", "meta", "recompile", "self", "output", "lambda")


class OddNames(nn.Module):
    """Layers under keys that are keywords or no identifiers, parameters and buffers named like parts of a GraphModule."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({key: nn.Linear(4, 4) for key in KEYS})
        for name in ATTRIBUTES:
            setattr(self, name, nn.Parameter(torch.rand(4) + 0.5))
        self.register_buffer("import", torch.rand(4), persistent=False)
        self.register_buffer("layers_class_weight_tensor", torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = x + layer(x).relu()
        for name in (*ATTRIBUTES, "import", "layers_class_weight_tensor"):
            x = x * getattr(self, name)
        return x


@pytest.mark.slow
def test_any_name_of_a_module_or_tensor_will_do(tmp_path: Path) -> None:
    model, x = OddNames().eval(), torch.randn(16, 4)
    leaves_float = {"rules": {"layers.0first": None, "layers.class": {"weight": None}}}
    graph = qpass.quantize_graph(model, [x], leaves_float, progress=False)
    assert (graph(x) - model(x)).norm() < 0.05 * model(x).norm()
    paths = {row.path for row in qpass.quantization_report(graph).layers}
    assert {f"layers.{key}" for key in KEYS} - {"layers.0first"} <= paths
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, x).passed
    assert torch.equal(qpass.load(qpass.save(graph, tmp_path / "model.qpass"))(x), graph(x))
