"""A file in the place of its graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime.module import OrtModule
from qpass.errors import LoweringError, VerifyError
from tests.models import DictModel


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[fx.GraphModule, Path]:
    torch.manual_seed(0)
    graph = qpass.quantize_graph(DictModel().eval(), [{"values": torch.randn(16, 8)}], progress=False)
    assert isinstance(graph, fx.GraphModule)
    return graph, qpass.export_onnx(graph, tmp_path_factory.mktemp("named") / "m.onnx")


@pytest.mark.parametrize("rows", [1, 5])
def test_it_returns_what_the_graph_returns(named: tuple[fx.GraphModule, Path], rows: int) -> None:
    graph, path = named
    module, x = OrtModule(graph, path, threads=1), torch.randn(rows, 8)
    found, expected = module(values=x), graph(values=x)
    assert list(found) == list(expected) == ["logits", "hidden"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    assert list(module.parameters()) == []


def test_no_rows_give_no_rows(named: tuple[fx.GraphModule, Path]) -> None:
    graph, path = named
    found = OrtModule(graph, path)(values=torch.zeros(0, 8))
    assert {name: tuple(value.shape) for name, value in found.items()} == {"logits": (0, 4), "hidden": (0, 4)}


def test_a_file_of_another_graph_is_refused(
    named: tuple[fx.GraphModule, Path], quantized: fx.GraphModule, exported: Path, images: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(VerifyError, match=r"model\.onnx: the file has 1 outputs; expected the 2 of the graph"):
        OrtModule(named[0], exported)
    (tmp_path / "m.onnx").write_bytes(b"no file of onnx")
    with pytest.raises(LoweringError, match=r"m\.onnx"):
        OrtModule(named[0], tmp_path / "m.onnx")


def test_it_takes_the_place_of_a_part(named: tuple[fx.GraphModule, Path]) -> None:
    graph, path = named

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = OrtModule(graph, path)

        def forward(self, x: Tensor) -> Tensor:
            return self.part(values=x.relu())["logits"] * 2  # type: ignore[no-any-return]

    x = torch.randn(3, 8)
    torch.testing.assert_close(Whole()(x), graph(values=x.relu())["logits"] * 2, rtol=1e-4, atol=1e-4)
