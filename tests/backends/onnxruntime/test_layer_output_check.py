"""Every quantized layer's own output is compared, however little of it is seen behind the layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnx_qdq.layer_outputs import OUTPUT, layer_outputs
from qpass.backends.onnxruntime.exact_outputs import ExactOutputs
from qpass.backends.onnxruntime.torch_run import widened
from qpass.backends.onnxruntime.verification import Verification
from qpass.data import ModelInputs
from qpass.nn import QuantizedLinear
from qpass.quantizers import Uniform
from tests.tampering import changes, layer_spreads, with_initializer

#: How much greater the residual stream is than what layers add to it.
STREAM = 100.0


class Diluted(nn.Module):
    """Layers whose outputs are added to a far greater stream; the last of them reach the output through float operators."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(4))
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.fc1, self.fc2 = (
            nn.ModuleList(nn.Linear(16, 32) for _ in range(2)),
            nn.ModuleList(nn.Linear(32, 16) for _ in range(2)),
        )
        self.scale = nn.Parameter(torch.full((16,), 0.5))
        self.last = nn.Conv2d(16, 12, 3, padding=1)  # stays float in some recipes

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).mT * STREAM
        q, k, v = (y.unflatten(-1, (2, 8)).transpose(1, 2) for y in self.qkv(self.norms[0](x)).chunk(3, -1))
        bias = STREAM * torch.eye(16)
        attention = (q @ k.mT / 8**0.5 + bias).softmax(-1)
        x = x + self.proj((attention @ v).transpose(1, 2).flatten(2))
        for norm, first, second in zip(self.norms[1:3], self.fc1, self.fc2, strict=True):
            x = x + self.scale * second(nn.functional.gelu(first(norm(x))))
        grid = self.norms[3](x).mT.unflatten(-1, (4, 4))
        return nn.functional.pixel_shuffle(self.last(grid), 2)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["w8a8", "repq-vit-w4a4"])
def case(
    request: pytest.FixtureRequest, pictures: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[fx.GraphModule, Path]:
    torch.manual_seed(0)
    graph = qpass.quantize_graph(Diluted().eval(), [pictures], request.param, progress=False)
    return graph, qpass.export_onnx(graph, tmp_path_factory.mktemp("diluted") / "m.onnx")


@pytest.mark.slow
def test_every_constant_of_a_layer_shows_however_great_the_stream_is(
    case: tuple[fx.GraphModule, Path], pictures: Tensor, tmp_path: Path
) -> None:
    graph, path = case
    inputs = ModelInputs((pictures,), {})
    verification, model = Verification(graph, inputs), onnx.load(path)
    assert verification.of(path).verdict == "passed"
    spreads, tried = layer_spreads(graph, inputs), set[str]()
    for place, tensor in enumerate(model.graph.initializer):
        owner = tensor.name.partition(".")[0]
        if owner not in spreads or tensor.data_type == TensorProto.INT64:  # a shape, with which nothing runs
            continue
        for what, constant in changes(tensor, spreads):
            onnx.save(with_initializer(model, place, constant), tmp_path / "m.onnx")
            report = verification.of(tmp_path / "m.onnx", strict=False)
            wrong = {layer.layer for layer in report.checks[0].layer_outputs if layer.off > 1}
            assert wrong == {owner}, f"{tensor.name}: {what}"
            assert f"as written: {owner}: its output is " in str(report)
            tried.add(owner)
    assert tried == set(spreads), "every layer has constants of its own"


def test_the_scale_of_attention_logits_shows_beside_a_great_bias(
    case: tuple[fx.GraphModule, Path], pictures: Tensor, tmp_path: Path
) -> None:
    graph, path = case
    model = onnx.load(path)
    (product,) = (node for node in model.graph.node if node.name.startswith("matmul") and node.name.endswith(OUTPUT))
    scale = next(t for t in model.graph.initializer if t.name == product.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(1.002), scale.name))
    onnx.save(model, tmp_path / "m.onnx")
    report = qpass.verify_onnx(graph, tmp_path / "m.onnx", pictures, strict=False)
    assert [layer.layer for layer in report.checks[0].layer_outputs if layer.off > 1] == [product.name.removesuffix(OUTPUT)]


def test_layers_that_a_file_does_not_name_are_left_out_by_name(
    case: tuple[fx.GraphModule, Path], pictures: Tensor, tmp_path: Path
) -> None:
    graph, path = case
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.name == f"proj_quantized{OUTPUT}")
    node.name = "renamed"
    onnx.save(model, tmp_path / "m.onnx")
    report = qpass.verify_onnx(graph, tmp_path / "m.onnx", pictures)
    assert report.left_out == ("layers whose outputs the file does not name: proj_quantized",)
    assert "proj_quantized" not in {layer.layer for layer in report.checks[0].layer_outputs}


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-contrib", "openvino"])
@pytest.mark.parametrize(
    "recipe",
    ["w8a8", "mixed-w3a4", {"preset": "w3a8", "weight": {"residual_rank": 4}, "weight_rounding": "nearest"}, "dopq-vit-w4a4"],
)
def test_every_layer_of_every_target_is_found(recipe: object, target: str, pictures: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    learned = {"preset": recipe, "reconstruction": None} if recipe == "dopq-vit-w4a4" else recipe
    graph = qpass.quantize_graph(Diluted().eval(), [pictures], learned, progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx", target=target)
    report = qpass.verify_onnx(graph, path, pictures)
    assert report.left_out == ()
    found = [layer.layer for layer in report.checks[0].layer_outputs]
    assert found == list(layer_outputs(graph))
    assert len(found) >= 8


class Convolutions(nn.Module):
    """Weights are integers and inputs float, one layer behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 1)
        self.third, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image).relu() * STREAM
        x = x + self.third(nn.functional.silu(self.second(x)))
        return self.head(x.mean((2, 3)))


@pytest.mark.slow
def test_layers_of_float_inputs_are_compared_for_what_they_read(pictures: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = {"preset": "w8a8", "convolutions": "patches"}
    graph = qpass.quantize_graph(Convolutions().eval(), [pictures], recipe, progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    report = qpass.verify_onnx(graph, path, pictures)
    assert [layer.layer for layer in report.checks[0].layer_outputs] == [
        "second_quantized",
        "third_quantized",
        "head_quantized",
    ]
    model = onnx.load(path)
    spreads = layer_spreads(graph, ModelInputs((pictures,), {}))
    for place, tensor in enumerate(model.graph.initializer):
        for what, constant in changes(tensor, spreads) if tensor.name.startswith("third_quantized.") else ():
            onnx.save(with_initializer(model, place, constant), tmp_path / "m.onnx")
            wrong = qpass.verify_onnx(graph, tmp_path / "m.onnx", pictures, strict=False).checks[0]
            assert {layer.layer for layer in wrong.layer_outputs if layer.off > 1} == {"third_quantized"}, (tensor.name, what)


@pytest.mark.parametrize("bias", [0.0, 300.0])
@pytest.mark.parametrize("one_sign", [False, True])
@pytest.mark.parametrize("terms", [1, 16, 300, 4096])
def test_float32_in_any_order_is_within_the_slack_and_one_code_is_not(terms: int, one_sign: bool, bias: float) -> None:
    graph, codes, x = _layer(terms, one_sign, bias)
    wide, weight = widened(graph), graph.layer.quantized_weight()
    (end,) = layer_outputs(wide).values()
    exact = ExactOutputs(wide, [end], ModelInputs((x.double(),), {}), {"quantizer": codes}).of(end)
    decoded = graph.quantizer.decode(codes)
    products = (decoded[:, None] * weight).numpy()  # (rows, out, in)
    for order in (np.arange(terms), np.arange(terms)[::-1], np.argsort(products[0, 0])):
        summed = np.cumsum(products[..., order], -1, dtype=np.float32)[..., -1] + graph.layer.bias.detach().numpy()
        assert ((torch.from_numpy(summed) - exact.value).abs() <= exact.slack).all()
    graph.layer.codes[1, terms // 2] += -1 if graph.layer.codes[1, terms // 2] > 0 else 1
    excess = (graph.layer(decoded).detach() - exact.value).abs() / exact.slack
    assert excess[:, 1].max() > 1
    assert excess[:, 0].max() < 1, "another channel"


def _layer(terms: int, one_sign: bool, bias: float) -> tuple[fx.GraphModule, Tensor, Tensor]:
    """Returns a graph of a quantizer and a layer with two channels, codes for it, and an input."""
    generator = torch.Generator().manual_seed(0)
    layer = QuantizedLinear(torch.randn(2, terms, generator=generator), torch.full((2,), bias), Uniform(8, signed=True, axis=0))
    assert layer.quantizer is not None
    with torch.no_grad():
        layer.weight.copy_(layer.weight.abs() if one_sign else layer.weight)  # type: ignore[union-attr,operator]
        layer.quantizer.fit(layer.weight)  # type: ignore[arg-type]
    layer.freeze()
    x = torch.randn(4, terms, generator=generator)
    quantizer = Uniform(8, signed=False).fit(x.abs() if one_sign else x)
    graph = fx.Graph()
    codes = graph.call_module("quantizer", (graph.placeholder("x"),))
    graph.output(graph.call_module("layer", (codes,)))
    return fx.GraphModule({"quantizer": quantizer, "layer": layer}, graph), quantizer.encode(x.abs() if one_sign else x), x
