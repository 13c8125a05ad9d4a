"""The run on random codes and another number of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime.random_run import RandomRun
from qpass.backends.onnxruntime.torch_run import widened
from qpass.data import ModelInputs
from qpass.errors import VerifyError


@pytest.mark.parametrize(("given", "rows"), [(1, 2), (2, 3), (8, 2)])
def test_it_has_another_number_of_rows_and_no_zeros(given: int, rows: int, quantized: fx.GraphModule, images: Tensor) -> None:
    found = RandomRun(quantized, ModelInputs((images[:given],), {}), widened(quantized))
    assert found.run is not None
    assert torch.equal(found.inputs.kwargs["x"], images[torch.arange(rows) % given])
    assert {len(output) for output in found.run.outputs} == {rows}
    for name, quantizer in found.run.quantizers.items():
        codes = found.run.codes[name]
        assert codes.dtype == quantizer.code_dtype
        assert quantizer.decode(codes).all(), "a zero hides the weight that it is multiplied with"
        assert len(codes.unique()) > 0.8 * min(codes.numel() / 10, quantizer.code_max - quantizer.code_min), "spread over all"


def test_a_file_that_holds_for_one_number_of_rows_is_refused(
    quantized: fx.GraphModule, exported: Path, images: Tensor, tmp_path: Path
) -> None:
    model = onnx.load(exported)
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    changed = 0
    for tensor in model.graph.initializer:
        sizes = numpy_helper.to_array(tensor).copy()
        if tensor.name in shapes and len(sizes) == 4 and sizes[0] in (0, -1) and sizes[0] != sizes[1:].min():
            sizes[0], changed = 1, changed + 1
            tensor.CopyFrom(numpy_helper.from_array(sizes, tensor.name))
    assert changed
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(VerifyError):
        qpass.verify_onnx(quantized, tmp_path / "m.onnx", images[:1])
    assert qpass.verify_onnx(quantized, exported, images[:1]).passed


class _Table(nn.Module):
    """Takes a row of a table by the size of its input, at most 10 where one value of a row is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.sum, self.table, self.out = nn.Linear(16, 1, bias=False), nn.Embedding(12, 8), nn.Linear(8, 4)
        with torch.no_grad():
            self.sum.weight.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.table(self.sum(x).squeeze(-1).round().abs().long()))


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.eye(16)[:8] * torch.arange(3.0, 11.0)[:, None]
    graph = qpass.quantize_graph(_Table().eval(), [x], {"preset": "w8a8", "rules": {"out": None}}, progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    report = qpass.verify_onnx(graph, path, x)
    assert report.verdict == "passed"
    (left_out,) = report.to_dict()["left_out"]
    assert left_out.startswith("random codes, which the graph does not take (IndexError: ")
    assert f"\n  left out: {left_out}\n" in str(report)


class _TwoCounts(nn.Module):
    """Every row of one input meets every row of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(16, 8), nn.Linear(12, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.left(x) @ self.right(y).mT


@pytest.mark.parametrize(("given", "tried"), [((1, 3), (2, 4)), ((2, 3), (3, 2)), ((8, 2), (2, 3))])
def test_inputs_with_row_counts_of_their_own_get_others_that_differ(
    given: tuple[int, int], tried: tuple[int, int], two_counts: tuple[fx.GraphModule, Path]
) -> None:
    graph, _ = two_counts
    inputs = ModelInputs((torch.randn(given[0], 16), torch.randn(given[1], 12)), {})
    found = RandomRun(graph, inputs, widened(graph))
    assert found.run is not None
    assert found.run.outputs[0].shape == tried
    assert found.left_out == ""


@pytest.fixture(scope="module")
def two_counts(tmp_path_factory: pytest.TempPathFactory) -> tuple[fx.GraphModule, Path]:
    torch.manual_seed(0)
    graph = qpass.quantize_graph(
        _TwoCounts().eval(), [(torch.randn(5, 16), torch.randn(3, 12))], transform_fn=_both, progress=False
    )
    return graph, qpass.export_onnx(graph, tmp_path_factory.mktemp("two") / "m.onnx")


def _both(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {"x": batch[0], "y": batch[1]}


def test_a_file_that_holds_for_one_number_of_rows_of_one_input_is_refused(
    two_counts: tuple[fx.GraphModule, Path], tmp_path: Path
) -> None:
    graph, path = two_counts
    call = {"x": torch.randn(5, 16), "y": torch.randn(3, 12)}
    assert qpass.verify_onnx(graph, path, call).passed
    model = onnx.load(path)
    node = next(node for node in model.graph.node if "y" in node.input)
    model.graph.initializer.append(numpy_helper.from_array(np.array([3, 12]), "fixed"))
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["y", "fixed"], ["y_of_three"]))
    node.input[list(node.input).index("y")] = "y_of_three"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(VerifyError):
        qpass.verify_onnx(graph, tmp_path / "m.onnx", call)
