from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnxruntime.output_check import OutputCheck, check_freely, whole_run
from qpass.backends.onnxruntime.torch_run import Float64ByDefault, widened
from qpass.backends.onnxruntime.uncertainty import Uncertainty
from qpass.backends.onnxruntime.verify_report import RuntimeCheck, VerifyReport
from qpass.errors import LoweringError, VerifyError
from qpass.quantizers import Quantizer


def tampered(path: Path, folder: Path, name: str, change: object) -> Path:
    """Writes the file with one initializer changed."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))  # type: ignore[operator]
    onnx.save(model, folder / "tampered.onnx")
    return folder / "tampered.onnx"


def flip_one_weight(codes: np.ndarray) -> np.ndarray:
    codes[3, 5] += 9
    return codes


def test_one_wrong_weight_is_found_and_its_layer_named(
    quantized: fx.GraphModule, exported: Path, images: Tensor, tmp_path: Path
) -> None:
    path = tampered(exported, tmp_path, "blocks_0_mlp_fc1_quantized.weight_codes", flip_one_weight)
    report = qpass.verify_onnx(quantized, path, images, strict=False)
    assert not report.passed
    wrong = {layer.quantizer for check in report.checks for layer in check.layers if layer.wrong}
    assert wrong == {"gelu_quantizer"}, "the error stays with the layer that made it"
    assert "MatMul" in next(layer.caused_by for layer in report.checks[1].layers if layer.wrong) or "Gelu" in str(report)
    with pytest.raises(
        VerifyError,
        match=r"tampered\.onnx: as written: blocks_0_mlp_fc1_quantized: .*; as written: gelu_quantizer: \d+ wrong codes",
    ):
        qpass.verify_onnx(quantized, path, images)


def test_a_scale_that_is_a_little_off_is_found(
    quantized: fx.GraphModule, exported: Path, images: Tensor, tmp_path: Path
) -> None:
    path = tampered(exported, tmp_path, "gelu_quantizer.scale", lambda scale: scale * np.float32(1.001))
    assert not qpass.verify_onnx(quantized, path, images, strict=False).passed


def test_another_models_file_is_refused(vit: nn.Module, quantized: fx.GraphModule, images: Tensor, tmp_path: Path) -> None:
    other = qpass.quantize_graph(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), [images], progress=False)
    path = qpass.export_onnx(other, tmp_path / "other.onnx")
    with pytest.raises(
        VerifyError, match="the file holds no codes of this quantizer; expected the file that export_onnx wrote"
    ):
        qpass.verify_onnx(quantized, path, images)


def test_a_file_that_is_no_onnx_is_refused(quantized: fx.GraphModule, images: Tensor, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not onnx at all")
    with pytest.raises((VerifyError, LoweringError), match=r"m\.onnx"):
        qpass.verify_onnx(quantized, tmp_path / "m.onnx", images)


class _Casts(nn.Module):
    """A part in float32 whatever comes in, as networks have it that guard some of their arithmetic against autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.arange(1, 9, dtype=torch.float32).view(8, 1, 1)
        return self.second((self.first(x) * scale).to(torch.float32)).mean((2, 3))


def test_a_network_that_casts_to_float32_is_compared_in_float64_all_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = _Casts().eval(), torch.randn(4, 3, 16, 16)
    graph = qpass.quantize_graph(model, [images], "w8a8", progress=False)
    assert qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), images).passed


class _OwnTypes(nn.Module):
    """Makes tensors without saying of which type, as DETR's decoder does, and divides integers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        query = torch.zeros(x.shape[0], 3, 8) + (torch.arange(3) / 3)[:, None]
        weights = (query @ self.first(x).transpose(1, 2)).softmax(-1)
        return self.second(weights @ x + torch.full((3, 8), 0.1))


def test_tensors_without_a_type_are_float64_in_the_float64_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 8)
    graph = qpass.quantize_graph(_OwnTypes().eval(), [x], "w8a8", progress=False)
    report = qpass.verify_onnx(graph, qpass.export_onnx(graph, tmp_path / "m.onnx"), x)
    assert report.passed
    thirds = [n for n in graph.graph.nodes if "arange" in n.name or "full" in n.name or "zeros" in n.name]
    assert thirds, "they are not constants"
    wide = widened(graph)
    with Float64ByDefault():
        assert wide(x.double()).dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32


def test_the_free_run_is_held_to_what_torch_is_uncertain_of(
    quantized: fx.GraphModule, exported: Path, images: Tensor, tmp_path: Path
) -> None:
    """Both figures of the report, computed here from the file, the graph, and the graph in float64 and with moved ties."""
    x, torchs = images.numpy(), quantized(images).double()
    wide = widened(quantized)
    with torch.no_grad(), Float64ByDefault():
        distances = [float((wide(images.double()) - torchs).norm())]
    for seed, move in enumerate((1.0, -1.0, None, None, None)):
        distances.append(float((_moved(quantized, images, move, seed) - torchs).norm()))
    uncertain = max(*distances, float(torchs.norm()) * 10 ** (-90 / 20))
    step = uncertain / math.sqrt(torchs.numel())
    files, ratios = [exported], []
    for steps in (1.35, 1.65):  # on either side of the bound of 1.5
        (tmp_path / str(steps)).mkdir()
        change = lambda bias: bias + np.float32(steps * step)  # noqa: B023, E731
        files.append(tampered(exported, tmp_path / str(steps), "head_quantized.bias", change))
    for file in files:
        found = torch.from_numpy(ort.InferenceSession(file).run(None, {"x": x})[0]).double()
        noise = float((found - torchs).norm())
        ratios.append(noise / uncertain)
        check = qpass.verify_onnx(quantized, file, images, strict=False).checks[1]
        assert check.error_ratio == pytest.approx(noise / uncertain, rel=1e-3, abs=1e-6)
        assert check.sqnr_db == pytest.approx(20 * math.log10(float(torchs.norm()) / noise), abs=0.01)
        failed = any("times torch's own uncertainty, at most 1.5 expected" in text for text in check.failures)
        assert failed == (noise > 1.5 * uncertain) == (file is files[-1])
    assert 1.2 < ratios[1] < 1.5 < ratios[2] < 1.8, "near the bound"


def _moved(graph: fx.GraphModule, x: Tensor, move: float | None, seed: int) -> Tensor:
    """Runs a graph with every quantizer's input moved by 2e-6 of its greatest value, up, down or at random."""
    generator = torch.Generator().manual_seed(seed)

    def hook(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        share = torch.rand(args[0].shape, generator=generator) * 2 - 1 if move is None else move
        return (args[0] + 2e-6 * share * args[0].abs().max(),)

    copied = copy.deepcopy(graph)
    for module in copied.modules():
        if isinstance(module, Quantizer):
            module.register_forward_pre_hook(hook)
    return copied(x).double()


@pytest.mark.parametrize(("noise", "passes"), [(1.49, True), (1.51, False), (150.0, False)])
def test_the_bound_of_the_whole_network(noise: float, passes: bool) -> None:
    """An output that is off by so many times what torch is uncertain by, beside a large one that is exact."""
    small, large = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), np.full((4, 2), 1e6, np.float32)
    own = [Uncertainty(0.01 * float(np.linalg.norm(small)), 0, False), Uncertainty(0.0, 0, False)]
    decibels, ratio = whole_run([small * (1 + 0.01 * noise), large], [small, large], own)
    assert ratio == pytest.approx(noise, rel=1e-3)
    assert decibels == pytest.approx(-20 * math.log10(0.01 * noise / math.sqrt(2)), abs=1e-3)
    check = RuntimeCheck("as written", (), (), 0.0, decibels, ratio, None)
    assert bool(check.failures) != passes


class _Cascade(nn.Module):
    """Layers of a large gain: one code that falls the other way decides most of those behind it."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = (20 * layer(x)).tanh()
        return x


def test_a_free_run_that_proves_nothing_is_said_to(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 64)
    graph = qpass.quantize_graph(_Cascade(64, 16).eval(), [x], "w8a8", progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    report = qpass.verify_onnx(graph, path, x)
    assert report.verdict == "layers proven, whole run not informative"
    assert str(report).count("running freely proves nothing about output") == 2
    for check in report.checks:
        assert check.sqnr_db < 20, "ties have cascaded"
        assert len(check.layers) == 16
    wrong = tampered(path, tmp_path, "layers_7_quantized.weight_scale", lambda scale: scale * np.float32(1.002))
    with pytest.raises(VerifyError, match="layers_7_quantized"):
        qpass.verify_onnx(graph, wrong, x)


@pytest.mark.parametrize(("uncertain", "informative"), [(0.6, True), (0.7, False)])
def test_a_run_is_informative_where_a_file_that_ignores_its_input_would_fail(uncertain: float, informative: bool) -> None:
    expected = np.array([[1.0, 5.0], [-1.0, 5.0]], np.float32)  # sqrt(2) from its mean over samples
    own = Uncertainty(uncertain * math.sqrt(2), 0, False)
    check = check_freely(OutputCheck("y", 4, 0, 0, 0.0), expected, expected, own)
    assert check.informative == informative
    report = VerifyReport("m.onnx", 2, (RuntimeCheck("as written", (), (check,), 0.0, 30.0, 0.5, None),))
    assert report.passed
    assert report.to_dict()["informative"] == informative
    verdict = "passed" if informative else "layers proven, whole run not informative"
    assert report.verdict == report.to_dict()["verdict"] == verdict
    assert str(report).startswith("PASSED: " if informative else f"PASSED ({verdict}): ")


def test_the_report_is_data_and_text(quantized: fx.GraphModule, exported: Path, images: Tensor) -> None:
    report = qpass.verify_onnx(quantized, exported, images)
    data = report.to_dict()
    assert data["passed"] is True
    assert data["samples"] == 8
    assert {"quantizer", "codes", "ties", "own_ties", "wrong", "caused_by"} <= set(data["checks"][0]["layers"][0])
    assert str(report).startswith("PASSED")
    for check in report.checks:
        assert 0 <= check.flipped_share < 1
        assert check.top1_agreement == 1


def test_verification_changes_nothing(quantized: fx.GraphModule, exported: Path, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in quantized.state_dict().items()}
    content = exported.read_bytes()
    qpass.verify_onnx(quantized, exported, images)
    assert exported.read_bytes() == content
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantized.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:0], "verify_onnx, input 'x': has no row; expected at least one"),
        (lambda x: x.double(), r"verify_onnx, input 'x': is float64; expected float32; pass x\.to\(torch\.float32\)"),
    ],
    ids=["no row", "float64"],
)
def test_inputs_that_nothing_can_be_verified_with_are_refused(
    change: Callable[[Tensor], Tensor], message: str, quantized: fx.GraphModule, exported: Path, images: Tensor
) -> None:
    """Both ended in an error of torch."""
    with pytest.raises(VerifyError, match=message):
        qpass.verify_onnx(quantized, exported, change(images))
