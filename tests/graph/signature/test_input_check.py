"""Graphs refuse inputs that they do not hold for, and so does whatever is made of them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.errors import UnsupportedError
from qpass.graph.signature.input_check import check_inputs


class Mixed(nn.Module):
    """A fixed table, two inputs of one batch, a third with rows of its own, and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(
        self, x: Tensor, table: Tensor, y: Tensor, texts: Tensor, scale: float = 1.0, mask: Tensor | None = None
    ) -> Tensor:
        z = self.layer(x + table) * scale + y
        return z.mean(1) @ self.other(texts).T


def call(rows: int = 2, texts: int = 3, **changes: object) -> dict[str, object]:
    generator = torch.Generator().manual_seed(rows)
    shapes = {"x": (rows, 4, 8), "table": (4, 8), "y": (rows, 4, 8), "texts": (texts, 8)}
    return {**{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}, "scale": 2.0, **changes}


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = [call(), call(5, 1), call(3, 3)]
        return qpass.quantize_graph(Mixed().eval(), batches, progress=False)  # type: ignore[return-value]


def reloaded(graph: fx.GraphModule, folder: Path) -> nn.Module:
    return qpass.load(qpass.save(graph, folder / "graph.qpass"))


WAYS: dict[str, Callable[[fx.GraphModule, Path], nn.Module]] = {
    "itself": lambda graph, _: graph,
    "deepcopy": lambda graph, _: copy.deepcopy(graph),
    "save and load": reloaded,
    "transformed": lambda graph, _: fx.Transformer(graph).transform(),
    "traced again": lambda graph, _: fx.symbolic_trace(graph),
    "state_dict": lambda graph, _: (again := copy.deepcopy(graph), again.load_state_dict(graph.state_dict()))[0],
    "onnxruntime": lambda graph, folder: qpass.onnxruntime_model(graph, qpass.export_onnx(graph, folder / "graph.onnx")),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_check_travels(graph: fx.GraphModule, way: str, tmp_path: Path) -> None:
    again = WAYS[way](graph, tmp_path)
    given = call(4, 6)
    torch.testing.assert_close(again(**given), graph(**given))
    wrong = {
        "table": (torch.randn(5, 8), r"Mixed: got table \(5, 8\); expected \(4, 8\)"),
        "y": (torch.randn(1, 4, 8), r"Mixed: got y \(1, 4, 8\); expected \(batch, 4, 8\), with batch 4 as in x"),
        "texts": (torch.zeros(6, 8, dtype=torch.long), r"Mixed: texts is a tensor of torch.int64; expected a tensor of float"),
        "scale": (50.0, r"Mixed: scale is 50.0; expected 2.0: it was a constant when the model was traced; give it that value"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(UnsupportedError, match=message):
            again(**{**given, name: value})


def test_it_holds_for_what_the_model_holds_for(graph: fx.GraphModule) -> None:
    for rows, texts in ((1, 1), (7, 2), (2, 7)):
        assert graph(**call(rows, texts)).shape == (rows, texts)


def test_the_file_has_none_of_it(graph: fx.GraphModule, tmp_path: Path) -> None:
    path = qpass.export_onnx(graph, tmp_path / "graph.onnx")
    assert qpass.verify_onnx(graph, path, call(3, 5)).passed
    with pytest.raises(UnsupportedError, match="got y"):
        qpass.verify_onnx(graph, path, call(3, 5, y=torch.randn(2, 4, 8)))
    with pytest.raises(UnsupportedError, match=r"no input \['texts'\]"):
        qpass.verify_onnx(graph, path, {name: value for name, value in call().items() if name != "texts"})


def test_a_structure_that_is_too_large_is_refused_by_the_graph_itself() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, xs: list[Tensor]) -> Tensor:
            return self.layer(xs[0]) + xs[1]

    x = torch.randn(4, 8)
    graph = qpass.quantize_graph(Listed().eval(), [{"xs": [x, x]}], progress=False)
    assert graph([x, x]).shape == (4, 8)
    with pytest.raises(UnsupportedError, match=r"an input holds the entries \[0, 1, 2\]"):
        graph([x, x, x])


def test_there_is_one_check(graph: fx.GraphModule) -> None:
    assert [node.op for node in graph.graph.nodes if node.target is check_inputs] == ["call_function"]
