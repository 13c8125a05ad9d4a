from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.backends.onnx_qdq.export import export_float
from qpass.graph.capture.trace import trace


class Complex(nn.Module):
    def __init__(self, run: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.run = nn.Linear(6, 4), run

    def forward(self, x: Tensor, phase: Tensor) -> Any:
        return self.run(self.layer(x), phase)


@pytest.mark.parametrize(
    ("run", "is_complex", "message"),
    [
        (lambda y, phase: {"wave": torch.complex(y, phase)}, False, "an output of complex numbers.*view_as_real"),
        (lambda y, phase: y * phase.real, True, "phase: an input of complex numbers.*view_as_real"),
    ],
    ids=["output", "input"],
)
def test_complex_inputs_and_outputs_are_refused_by_name(
    run: Callable[[Tensor, Tensor], Any], is_complex: bool, message: str, tmp_path: Path
) -> None:
    """The file had real numbers of another shape in their place, and was then called wrong."""
    x, phase = torch.randn(8, 6), torch.randn(8, 4)
    batch = {"x": x, "phase": torch.complex(phase, phase) if is_complex else phase}
    graph = qpass.quantize_graph(Complex(run).eval(), [batch], "w8a8", progress=False)
    graph(**batch)
    with pytest.raises(qpass.LoweringError, match=message):
        qpass.export_onnx(graph, tmp_path / "m.onnx")


def test_complex_numbers_inside_are_exported(tmp_path: Path) -> None:
    def turned(y: Tensor, phase: Tensor) -> Tensor:
        return torch.view_as_real(torch.complex(y, y) * torch.polar(torch.ones_like(phase), phase)).flatten(1)

    batch = {"x": torch.randn(8, 6), "phase": torch.randn(8, 4)}
    graph = qpass.quantize_graph(Complex(turned).eval(), [batch], "w8a8", progress=False)
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), batch).passed


@pytest.mark.parametrize(
    "function",
    [lambda y: y.kthvalue(2).values, lambda y: torch.clamp(y.long(), 0, 1.5)],
    ids=["without a translation", "without a decomposition"],
)
def test_the_operator_that_the_exporter_refuses_is_named(function: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    class Refused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    graph = trace(Refused(), (torch.randn(4, 6),))
    with pytest.raises(qpass.LoweringError, match=r"Refused, aten\.(kthvalue|clamp)\.default: torch\.onnx cannot export"):
        export_float(graph, tmp_path / "m.onnx")


class Sizes(NamedTuple):
    """Constants by name."""

    height: int
    width: int


@pytest.mark.parametrize(
    "size",
    [(9,), (), torch.Size([3, 2]), [(9, 3), (3, 2)], Sizes(2, 3), {"a": (1, 2), "b": [(), {"c": (None, True)}]}],
    ids=lambda size: type(size).__name__,
)
def test_constants_of_any_structure_are_exported(size: Any, tmp_path: Path) -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, x: Tensor, size: Any, pair: tuple[Tensor, None]) -> Tensor:
            return self.layer(x) * (1 + len(size)) + pair[0]

    batch = lambda rows: {"x": torch.randn(rows, 6), "size": size, "pair": (torch.randn(rows, 4), None)}  # noqa: E731
    graph = qpass.quantize_graph(Sized().eval(), [batch(8)], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert qpass.verify_onnx(graph, path, batch(3)).passed
    other = batch(5)
    torch.testing.assert_close(qpass.onnxruntime_model(graph, path)(**other), graph(**other))
