"""Convolutions whose windows tile their input, in one, two and three dims: integer products, from the plan to the file."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.backends.onnxruntime import OrtSession
from qpass.backends.onnxruntime.latency import fusion_of
from qpass.nn import QuantizedConv
from qpass.quantizers import Uniform
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
@pytest.mark.parametrize("dims", [1, 2])
def test_what_whole_windows_of_an_open_size_leave_over_is_cut_off(dims: int, tmp_path: Path) -> None:
    """As torch does it; a multiple of the window needs no cut."""
    model = Tokens((nn.Conv1d, nn.Conv2d)[dims - 1](3, 16, 4, 4)).eval()
    opened = {dim: torch.export.Dim(f"size_{dim}", min=8, max=64) for dim in range(2, 2 + dims)}
    graph = qpass.quantize_graph(
        model, [seeded(8, 3, *[16] * dims)], "w8a8", dynamic_shapes={"x": {0: "rows", **opened}}, progress=False
    )
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    for sizes in ([16, 16], [11, 13], [9, 8]):
        x = seeded(2, 3, *sizes[:dims])
        assert graph(x).shape == model(x).shape
        assert qpass.verify_onnx(graph, path, x).passed


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


class Hybrid(nn.Module):
    """A convolutional network of every kind, with biases, BatchNorms and activation functions of hybrids."""

    def __init__(self) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU()]
        dense = [nn.Conv2d(16, 24, 1), nn.ReLU(), nn.Conv2d(24, 24, (3, 5), padding=(2, 4), dilation=2), nn.ReLU()]
        apart = [
            nn.Conv2d(24, 24, 3, padding=1, groups=24),
            nn.Hardswish(),
            nn.Conv2d(24, 24, 3, padding=1, groups=4),
            nn.GELU(),
        ]
        self.stem, self.dense, self.apart = nn.Sequential(*stem), nn.Sequential(*dense), nn.Sequential(*apart)
        self.last, self.head = nn.Conv2d(24, 16, 1, bias=False), nn.Linear(16, 10)
        self.stem[1].running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.last(self.apart(self.dense(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def hybrid() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Hybrid().eval()


#: Least dB of the output, and greatest size of the stored weights as a share of the float ones.
RECIPES = {"w8a8": (35, 0.3), "w4a8": (25, 0.2), "w4a4": (15, 0.2), "codebook-w3a4": (15, 0.2)}


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("config", RECIPES)
def test_a_hybrid_from_the_plan_to_the_file(hybrid: nn.Module, config: str, tmp_path: Path) -> None:
    x = seeded(8, 3, 24, 24)
    graph = qpass.quantize_graph(hybrid, [x], {"preset": config, "convolutions": "all"}, progress=False)
    report = qpass.quantization_report(graph)
    assert report.counts == {"conv2d": 6, "linear": 1}
    assert report.stayed_float == report.not_rewritten == ()
    assert {row.bits for row in report.tensors if row.kind == "output"} == {8}
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, x).passed
    fusion = fusion_of(path)
    assert fusion.integer["QLinearConv"] == 6
    assert fusion.float == {}
    loaded = qpass.load(qpass.save(graph, tmp_path / "model.qpass"))
    for images in (x, seeded(3, 3, 24, 24)):  # any batch
        torch.testing.assert_close(loaded(images), graph(images), rtol=0, atol=0)
    least, greatest = RECIPES[config]
    assert sqnr_db(hybrid(x), graph(x)) > least
    stored = sum(len(tensor.raw_data) for tensor in weights_of(path))
    assert 0 < stored < greatest * 4 * sum(parameter.numel() for parameter in hybrid.parameters())


def weights_of(path: Path) -> list[onnx.TensorProto]:
    """Returns the stored tensors of a file that are larger than the constants of a channel."""
    return [tensor for tensor in onnx.load(path).graph.initializer if math.prod(tensor.dims) > 24]


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    ("convolution", "shape"),
    [(nn.Conv1d(4, 8, 3, 2, 1), (4, 13)), (nn.Conv3d(2, 8, (2, 3, 3), padding=1, dilation=(1, 2, 1)), (2, 5, 7, 6))],
    ids=["1-D", "3-D"],
)
@pytest.mark.parametrize("config", ["w8a8", "w4a4"])
def test_one_and_three_dims(convolution: nn.Module, shape: tuple[int, ...], config: str, tmp_path: Path) -> None:
    x, model = seeded(8, *shape), nn.Sequential(convolution, nn.ReLU(), nn.Flatten()).eval()
    graph = qpass.quantize_graph(model, [x], {"preset": config, "convolutions": "all"}, progress=False)
    path = qpass.export_onnx(graph, tmp_path / "model.onnx")
    assert qpass.verify_onnx(graph, path, x).passed
    assert fusion_of(path).integer == {"QLinearConv": 1}
    assert sqnr_db(model(x), graph(x)) > (30 if config == "w8a8" else 12)


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-contrib"])
def test_padding_is_zero_whatever_the_zero_point(target: str, tmp_path: Path) -> None:
    """The kernel's sums equal those of plain integers, padded with the zero point."""
    x = seeded(4, 3, 6, 6) + 2  # far from symmetric
    model = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=2), nn.Sigmoid()).eval()
    graph = qpass.quantize_graph(model, [x], {"preset": "w8a8", "convolutions": "all"}, progress=False)
    (layer,) = (module for module in graph.modules() if isinstance(module, QuantizedConv))
    first, output = (module for module in graph.modules() if type(module) is Uniform and not module.signed)
    assert first.zero_point > 0
    codes = nn.functional.pad(first.encode(x).long() - int(first.zero_point), (2, 2, 2, 2))
    sums = nn.functional.conv2d(codes.double(), layer.codes.double(), stride=2)
    bias = layer.bias_steps(first.scale)[:, None, None]
    values = (sums + bias) * first.scale.double() * layer.quantizer.scale.double()[:, None, None]
    expected = output.decode((values / output.scale.double()).round().add(output.zero_point).clamp(0, 255)).float().sigmoid()
    path = qpass.export_onnx(graph, tmp_path / "model.onnx", target=target)
    assert fusion_of(path).integer == {"QLinearConv": 1}
    session = OrtSession(path)
    (found,) = session.run({session.input_names[0]: x.numpy()}).values()
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(graph(x), expected, rtol=1e-5, atol=1e-6)


def test_a_bias_too_large_for_integer_sums_is_added(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()).eval()
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([1e6, 0, 1, -1]))
        model[0].weight.mul_(1e-3)
    x = seeded(4, 3, 6, 6)
    graph = qpass.quantize_graph(model, [x], {"preset": "w8a8", "convolutions": "all"}, progress=False)
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "model.onnx"), x).passed


def test_a_weight_whose_zero_points_no_kernel_takes_is_multiplied_in_float(tmp_path: Path) -> None:
    weight = {"weight": {"bits": 8, "symmetric": False}}
    model, x = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 1), nn.SiLU()).eval(), seeded(4, 3, 6, 6)
    with torch.no_grad():
        model[1].weight.abs_()
    graph = qpass.quantize_graph(model, [x], {"preset": "w8a8", "convolutions": "all", **weight}, progress=False)
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "model.onnx"), x).passed


@pytest.mark.parametrize(
    ("convolution", "reason"),
    [
        (nn.Conv3d(3, 16, 2, 1), "its windows overlap"),
        (nn.Conv1d(3, 16, 1, stride=2), "its windows overlap"),
        (nn.ConvTranspose1d(3, 16, 2, 2), "transposed"),
    ],
    ids=["overlapping", "that skips", "transposed"],
)
def test_published_methods_leave_others_in_float_with_a_reason(convolution: nn.Module, reason: str) -> None:
    x = seeded(8, 3, *(12, 6, 4)[: convolution.weight.dim() - 2])
    model = Tokens(convolution).eval()
    graph = qpass.quantize_graph(model, [x], "repq-vit-w8a8", progress=False)
    ((kind, path, found),) = qpass.quantization_report(graph).stayed_float
    assert kind.startswith("conv")
    assert path == "convolution"
    assert reason in found


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
