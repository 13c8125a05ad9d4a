"""Outputs that are no tensors, or no tensors of their own: the graph, what is loaded and the file give what the model gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import qpass
from qpass.graph.signature.outputs import output_names

X = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))


class Odd(nn.Module):
    """Gives the result of one Linear, and what a function makes of its input and that."""

    def __init__(self, give: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.give = nn.Linear(8, 8), give
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        return self.give(x, y)


GIVES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "constants": lambda x, y: (y, 3, 2.5, None, "yes", True),
    "a number first": lambda x, y: {"count": 7, "y": y},
    "sizes": lambda x, y: {"y": y, "shape": tuple(x.shape), "rows": x.shape[0], "twice": 2 * x.shape[0] + 1},
    "a torch.Size": lambda x, y: (y, x.shape),
    "the input": lambda x, y: (y, x),
    "the input by its name": lambda x, y: {"y": y, "x": x},
    "the same twice": lambda x, y: [y, y],
    "views of the input": lambda x, y: (y, x.flatten(1), x[:, :2]),
    "constant tensors": lambda x, y: (y, torch.arange(4), torch.ones(2)),
    "nested": lambda x, y: {"y": y, "hidden": (x, {"mean": y.mean(1)}), "none": None},
}


@pytest.mark.slow(after=2)
@pytest.mark.parametrize("kind", GIVES)
def test_everybody_gives_what_the_model_gives(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Odd(GIVES[kind]).eval()
    graph = qpass.quantize_graph(model, [X], progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, X).passed
    assert [value.name for value in onnx.load(path).graph.input] == ["x"]
    loaded, runner = qpass.load(qpass.save(graph, tmp_path / "m.qpass")), qpass.onnxruntime_model(graph, path)
    for x in (X, X[:3]):
        expected, spec = pytree.tree_flatten(model(x))
        for run in (graph, loaded, runner):
            found, found_spec = pytree.tree_flatten(run(x))
            assert len(found) == len(expected)
            assert found_spec.type in (spec.type, tuple)
            for a, b in zip(found, expected, strict=True):
                assert type(a) is type(b)
                if isinstance(b, Tensor):
                    torch.testing.assert_close(a, b, rtol=0, atol=0.05)
                else:
                    assert a == b


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("constants", ["output"]),
        ("a number first", ["y"]),
        ("sizes", ["y"]),
        ("the input by its name", ["y", "x"]),
        ("the input", ["output_0", "output_1"]),
        ("nested", ["y", "hidden_0", "hidden_1"]),
    ],
)
def test_tensors_have_names(kind: str, names: list[str]) -> None:
    graph = qpass.quantize_graph(Odd(GIVES[kind]).eval(), [X], progress=False)
    assert output_names(graph) == names
