from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import qpass
from qpass.errors import CalibrationError, ConfigError, QPassError
from qpass.graph.signature.input_check import check_inputs
from qpass.nn import QuantizedLinear
from qpass.quantizers import LogSqrt2, Quantizer, Uniform
from tests.models import Branching, MaskedAttention, small_vit


def test_same_seed_same_bits(vit: nn.Module, images: Tensor, quantized: fx.GraphModule) -> None:
    again = qpass.quantize_graph(vit, [images], "w8a8", progress=False)
    expected = quantized.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
    assert torch.equal(again(images), quantized(images))


def test_the_model_is_not_changed_and_shares_nothing(images: Tensor) -> None:
    model = small_vit().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    graph = qpass.quantize_graph(model, [images], "mixed-w4a5", progress=False)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for tensor in [*graph.parameters(), *graph.buffers()]:
            tensor.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_graph_holds_integers_only(quantized_4bit: fx.GraphModule) -> None:
    layers = [module for module in quantized_4bit.modules() if isinstance(module, QuantizedLinear)]
    assert len(layers) == 9
    for layer in layers:
        assert layer.weight is None
        assert layer.codes.dtype == torch.int8
        assert layer.codes.unique().numel() <= 16
    kinds = [type(m) for m in quantized_4bit.children() if isinstance(m, Quantizer)]
    assert kinds.count(LogSqrt2) == 2
    assert "call_module" in str([node.op for node in quantized_4bit.graph.nodes])


@pytest.mark.slow
def test_more_bits_are_nearer_to_float(vit: nn.Module) -> None:
    """On images that calibrated nothing: error feedback fits those that did."""
    many, unseen = torch.randn(2, 64, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    errors = [
        (qpass.quantize_graph(vit, [many], f"w{bits}a{bits}", progress=False)(unseen) - vit(unseen)).norm().item()
        for bits in (2, 3, 4, 6, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


def test_shared_inputs_share_one_quantizer() -> None:
    graph = qpass.quantize_graph(MaskedAttention().eval(), [torch.randn(8, 5, 16)], progress=False)
    (x,) = [node for node in graph.graph.nodes if node.op == "placeholder"]
    assert [node.op for node in x.users if "sym_size" not in node.name and node.target is not check_inputs] == ["call_module"]
    (quantizer,) = [node for node in x.users if node.op == "call_module"]
    assert len(quantizer.users) == 3


@pytest.mark.slow
def test_a_transformers_model(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    model = ViTForImageClassification(config).eval()
    batch = {"pixel_values": torch.randn(4, 3, 32, 32), "labels": torch.zeros(4, dtype=torch.long)}
    graph = qpass.quantize_graph(model, [{"pixel_values": batch["pixel_values"]}], progress=False)
    assert qpass.quantization_report(graph).counts == {"conv2d": 1, "linear": 13, "matmul": 4}
    logits = graph(pixel_values=batch["pixel_values"])["logits"]
    expected = model(pixel_values=batch["pixel_values"]).logits
    assert (logits - expected).norm() < 0.05 * expected.norm()
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    images = {"pixel_values": batch["pixel_values"]}
    assert qpass.verify_onnx(graph, path, images).passed
    again = qpass.load(qpass.save(graph, tmp_path / "m.qpass"))
    assert torch.equal(again(**images)["logits"], logits)


def test_submodules_of_a_model_that_cannot_be_captured() -> None:
    torch.manual_seed(0)
    model, x = Branching().eval(), torch.randn(16, 8)
    result = qpass.quantize_graph(model, [x], submodules=["backbone"], progress=False)
    assert isinstance(result.backbone, fx.GraphModule)
    assert isinstance(model.backbone, nn.Sequential)
    assert (result(x) - model(x)).norm() < 0.05 * model(x).norm()
    with pytest.raises(ConfigError, match=r"no module 'backbon'; did you mean 'backbone'\?"):
        qpass.quantize_graph(model, [x], submodules=["backbon"], progress=False)


def test_a_dead_channel_is_no_obstacle(images: Tensor) -> None:
    model = small_vit()
    model.blocks[0].norm1.weight.data[:4] = 0
    model.blocks[0].norm1.bias.data[:2] = 0
    graph = qpass.quantize_graph(model, [images], "repq-vit-w4a4", progress=False)
    assert graph(images).isfinite().all()
    assert all(
        module.scale.isfinite().all() and (module.scale > 0).all() for module in graph.modules() if isinstance(module, Uniform)
    )


@pytest.mark.slow
def test_weights_alone_or_activations_alone(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    for role in ("weight", "activation"):
        config = qpass.QuantConfig.from_any("w8a8").with_rules({"blocks.0.mlp.*": {role: None}})
        graph = qpass.quantize_graph(vit, [images], config, progress=False)
        path = qpass.export_onnx(graph, tmp_path / "m.onnx")
        assert qpass.verify_onnx(graph, path, images).passed


def test_what_is_excluded_stays_float(vit: nn.Module, images: Tensor) -> None:
    graph = qpass.quantize_graph(vit, [images], "w8a8", exclude=["head", "blocks.*.mlp.fc?"], progress=False)
    report = qpass.quantization_report(graph)
    assert {path for _, path, _ in report.stayed_float} == {"head", *(f"blocks.{n}.mlp.fc{m}" for n in (0, 1) for m in (1, 2))}
    assert {row.path for row in report.layers if row.kind == "linear"} == {
        f"blocks.{n}.attn.{name}" for n in (0, 1) for name in ("qkv", "proj")
    }


@pytest.mark.parametrize(
    ("loader", "error"), [([], CalibrationError), ([torch.full((2, 3, 32, 32), float("nan"))], CalibrationError)]
)
def test_bad_data_is_refused(vit: nn.Module, loader: list[Tensor], error: type[QPassError]) -> None:
    with pytest.raises(error):
        qpass.quantize_graph(vit, loader, progress=False)


def test_a_float_model_is_not_a_quantized_graph(vit: nn.Module, images: Tensor) -> None:
    for function in (lambda: qpass.quantization_report(vit), lambda: qpass.verify_onnx(vit, "m.onnx", images)):
        with pytest.raises(QPassError, match="got a VisionTransformer; expected what quantize_graph or load returned"):
            function()


def test_calibration_images_stay_out_of_the_report(vit: nn.Module, images: Tensor, quantized: fx.GraphModule) -> None:
    graph = qpass.quantize_graph(vit, [images], "w8a8", images=False, progress=False)
    shown, bare = qpass.quantization_report(quantized), qpass.quantization_report(graph)
    assert shown.preview.images
    assert bare == dataclasses.replace(shown, preview=dataclasses.replace(shown.preview, images=()))
    assert "data:image/png" in shown.to_html()
    assert "data:image/png" not in bare.to_html()
    assert "were left out of this report" in bare.to_html()
