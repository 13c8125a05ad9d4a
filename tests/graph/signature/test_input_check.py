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


def without_dead_code(graph: fx.GraphModule) -> fx.GraphModule:
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


WAYS: dict[str, Callable[[fx.GraphModule, Path], nn.Module]] = {
    "itself": lambda graph, _: graph,
    "deepcopy": lambda graph, _: copy.deepcopy(graph),
    "save and load": reloaded,
    "transformed": lambda graph, _: fx.Transformer(graph).transform(),
    "traced again": lambda graph, _: fx.symbolic_trace(graph),
    "dead code removed": lambda graph, _: without_dead_code(copy.deepcopy(graph)),
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


class Windows(nn.Module):
    """Holds for lengths that are multiples of four only, so that calls of other lengths are another graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.shape[1] % 4 == 0 else self.layer(nn.functional.pad(x, (0, 0, 0, 4 - x.shape[1] % 4)))


@pytest.fixture(scope="module")
def part() -> fx.GraphModule:
    """A part whose dims are open, but which holds for the length 8 only."""
    torch.manual_seed(0)
    model = nn.Sequential(Windows()).eval()
    batches = [torch.randn(2, length, 8) for length in (8, 8, 6)]
    with pytest.warns(UserWarning, match="its sizes cannot be open"):
        found = qpass.quantize_graph(model, batches, submodules=["0"], progress=False).get_submodule("0")
    assert isinstance(found, fx.GraphModule)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_the_sizes_that_a_part_holds_for_travel(part: fx.GraphModule, way: str, tmp_path: Path) -> None:
    again, x = WAYS[way](part, tmp_path), torch.randn(3, 8, 8)
    torch.testing.assert_close(again(x), part(x), rtol=0, atol=1e-2)
    with pytest.raises(UnsupportedError, match=r"got \(batch, 6, 8\).*expected \(batch, 8, 8\)"):
        again(torch.randn(3, 6, 8))


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


@pytest.mark.parametrize("way", ["itself", "save and load", "onnxruntime"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x.double(),
            r"y is a tensor of torch\.float64; expected a tensor of float32 values; pass y\.to\(torch\.float32\)",
        ),
        (lambda x: x.half(), r"y is a tensor of torch\.float16; expected a tensor of float32"),
        (lambda x: x.bfloat16(), r"y is a tensor of torch\.bfloat16; expected a tensor of float32"),
        (lambda x: x.long(), r"y is a tensor of torch\.int64; expected a tensor of float32"),
        (lambda x: x.to("meta"), r"y is a meta tensor; expected a dense tensor with values"),
        (lambda x: x.to_sparse(), r"y is a tensor of layout torch\.sparse_coo; expected a dense"),
    ],
)
def test_other_dtypes_are_refused_by_name(
    graph: fx.GraphModule, way: str, change: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    inputs = call()
    inputs["y"] = change(inputs["y"])  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match=f"Mixed: {message}"):
        WAYS[way](graph, tmp_path)(**inputs)


class Casts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_an_input_keeps_the_dtype_that_it_was_calibrated_with(dtype: torch.dtype, tmp_path: Path) -> None:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    graph = qpass.quantize_graph(Casts().eval(), [x], progress=False)
    assert torch.equal(reloaded(graph, tmp_path)(x), graph(x))
    with pytest.raises(
        UnsupportedError, match=rf"x is a tensor of torch\.float32; expected a tensor of {str(dtype)[6:]} values"
    ):
        graph(x.float())
