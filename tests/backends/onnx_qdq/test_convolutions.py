"""Convolutions whose windows tile their input, in one, two and three dims: integer products, from the plan to the file."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.backends.onnxruntime.latency import fusion_of
from qpass.nn import QuantizedConv
from qpass.report.collect import sqnr_db


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


class Tokens(nn.Module):
    """A convolution, tokens of its output, and a Linear."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution, self.norm, self.head = convolution, nn.LayerNorm(16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.convolution(x).flatten(2).transpose(1, 2)))


class Points(nn.Module):
    """Convolutions of kernel 1 along points, as in point clouds, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv1d(6, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 16, 1, bias=False), nn.ReLU()]
        self.layers, self.head = nn.Sequential(*layers), nn.Conv1d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)).amax(-1)


CASES: dict[str, tuple[nn.Module, tuple[int, ...], list[str]]] = {
    "valid": (Tokens(nn.Conv2d(3, 16, 4, 4, padding="valid")), (3, 16, 16), ["conv2d", "linear"]),
    "same": (Tokens(nn.Conv1d(3, 16, 1, padding="same")), (3, 12), ["conv1d", "linear"]),
    "points": (Points(), (6, 12), ["conv1d"] * 3),
    "pieces of a signal": (Tokens(nn.Conv1d(3, 16, 4, 4, bias=False)), (3, 16), ["conv1d", "linear"]),
    "tubelets": (Tokens(nn.Conv3d(3, 16, (2, 4, 4), (2, 4, 4))), (3, 4, 8, 12), ["conv3d", "linear"]),
    "tubelets, valid": (Tokens(nn.Conv3d(3, 16, 2, 2, padding="valid")), (3, 4, 4, 6), ["conv3d", "linear"]),
}


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("config", ["w8a8", "w4a4"])
@pytest.mark.parametrize("case", CASES)
def test_from_the_plan_to_the_file(case: str, config: str, tmp_path: Path) -> None:
    model, shape, kinds = CASES[case]
    x = seeded(8, *shape)
    graph = qpass.quantize_graph(model.eval(), [x], config, progress=False)
    report = qpass.quantization_report(graph)
    assert [layer.kind for layer in report.layers] == kinds
    assert report.stayed_float == ()
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, x).passed
    fusion = fusion_of(path)
    assert sum(fusion.integer.values()) == len(kinds)
    assert fusion.float == {}
    loaded = qpass.load(qpass.save(graph, tmp_path / "model.qpass"))
    torch.testing.assert_close(loaded(x), graph(x), rtol=0, atol=0)
    assert sqnr_db(model(x), graph(x)) > (30 if config == "w8a8" else 8)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("config", ["w8a8", "w4a4"])
@pytest.mark.parametrize("dims", [1, 2])
def test_weights_of_grouped_windows_are_integers(dims: int, config: str, tmp_path: Path) -> None:
    model = Tokens({1: nn.Conv1d, 2: nn.Conv2d}[dims](32, 16, 4, 4, groups=8)).eval()
    x = seeded(8, 32, *(16, 8)[:dims])
    graph = qpass.quantize_graph(model, [x], config, progress=False)
    first, second = qpass.quantization_report(graph).layers
    assert (first.kind, first.weight_bits, first.input_bits) == (f"conv{dims}d", int(config[1]), (None,))
    assert second.kind == "linear"
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, x).passed
    stored = [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert all(math.prod(tensor.dims) < model.convolution.weight.numel() for tensor in stored)
    loaded = qpass.load(qpass.save(graph, tmp_path / "model.qpass"))
    torch.testing.assert_close(loaded(x), graph(x), rtol=0, atol=0)
    assert sqnr_db(model(x), graph(x)) > (30 if config == "w8a8" else 8)


@pytest.mark.parametrize(
    "convolution", [nn.Conv1d(3, 4, 4, 4), nn.Conv2d(3, 4, (2, 3), (2, 3)), nn.Conv3d(3, 4, 2, 2)], ids=str
)
def test_rows_times_the_weight_are_the_convolution(convolution: nn.Module) -> None:
    x = seeded(2, 3, *(12, 6, 4)[: convolution.weight.dim() - 2])
    layer = QuantizedConv(convolution.weight, None, None)
    product = layer.rows(x) @ convolution.weight.flatten(1).T
    expected = (convolution(x) - convolution.bias.view(-1, *[1] * (x.dim() - 2))).flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(product, expected)
    assert layer.output_shape(x.shape) == tuple(convolution(x).shape)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv1d(3, 16, 4, padding="same"),
        nn.Conv3d(3, 16, 2, 1),
        nn.Conv1d(3, 16, 1, stride=2),
        nn.ConvTranspose1d(3, 16, 2, 2),
    ],
    ids=["same of an even window", "overlapping", "that skips", "transposed"],
)
def test_others_stay_float_with_a_reason(convolution: nn.Module) -> None:
    x = seeded(8, 3, *(12, 6, 4)[: convolution.weight.dim() - 2])
    model = Tokens(convolution).eval()
    graph = qpass.quantize_graph(model, [x], "w8a8", progress=False)
    ((kind, path, reason),) = qpass.quantization_report(graph).stayed_float
    assert kind.startswith("conv")
    assert path == "convolution"
    assert "only convolutions" in reason or "overlap" in reason


def test_a_linear_of_a_tensor_of_one_dim(tmp_path: Path) -> None:
    """A token for all images, say, goes through a Linear by itself."""

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return y + self.second(y.mean((0, 1)))

    x = seeded(8, 6, 8)
    for config in ("w8a8", "w4a4"):
        graph = qpass.quantize_graph(Alone().eval(), [x], config, progress=False)
        assert qpass.quantization_report(graph).counts == {"linear": 2}
        assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "model.onnx"), x).passed
