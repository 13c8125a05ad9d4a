from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qpass
from qpass.errors import LoweringError, QPassError, UnsupportedError
from qpass.graph.capture.already_quantized import refuse_quantized

X = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4)).eval()


@pytest.fixture(scope="module")
def graph() -> torch.fx.GraphModule:
    return qpass.quantize_graph(network(), [X], progress=False)


class Int8Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.ones(4, 8, dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.qweight.float().T


def dynamic() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)


def qat() -> nn.Module:
    model = network().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    return torch.ao.quantization.prepare_qat(model).eval()


def observed() -> nn.Module:
    model = network()
    model.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    return torch.ao.quantization.prepare(model)


def decomposed() -> nn.Module:
    """Calls the operators that torch's own flow for exported programs leaves in a graph."""
    import torch.ao.quantization.fx._decomposed  # registers them

    class Rounds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            codes = torch.ops.quantized_decomposed.quantize_per_tensor(x, 0.1, 0, -128, 127, torch.int8)
            return torch.ops.quantized_decomposed.dequantize_per_tensor(codes, 0.1, 0, -128, 127, torch.int8)

    return torch.export.export(Rounds(), (X,)).module()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (dynamic, r"0: is quantized already: a torch\.ao\.nn\.quantized\.dynamic"),
        (qat, r": is quantized already: a torch\.ao"),
        (observed, r"is quantized already: a torch\.ao\.quantization\.observer\."),
        (lambda: nn.Sequential(nn.Linear(8, 8), Int8Linear()), r"1\.qweight: is quantized already: values of int8"),
        (decomposed, "is quantized already: it calls quantized_decomposed.quantize_per_tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_models_that_others_quantized_are_refused(make: object, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        qpass.quantize_graph(make(), [X], progress=False)  # type: ignore[operator]


def test_graphs_of_qpass_are_refused(graph: torch.fx.GraphModule, tmp_path: Path) -> None:
    loaded = qpass.load(qpass.save(graph, tmp_path / "m.qpass"))
    for model, where in ((graph, "Sequential"), (loaded, "Sequential"), (nn.Sequential(nn.Linear(8, 8), graph), "1")):
        with pytest.raises(UnsupportedError, match=f"{where}: is quantized already: a graph that qpass made; expected a float"):
            qpass.quantize_graph(model, [X], progress=False)


def test_other_parts_of_a_model_may_be_quantized_later(graph: torch.fx.GraphModule) -> None:
    model = nn.ModuleDict({"body": graph, "head": nn.Linear(4, 4)})
    refuse_quantized(model, ["head"])
    with pytest.raises(UnsupportedError, match="body: is quantized already"):
        refuse_quantized(model, ["head", "body"])


def test_bytes_that_are_no_weights_are_left_alone() -> None:
    model = network()
    model.register_buffer("mask", torch.ones(3, 3, dtype=torch.uint8))
    refuse_quantized(model)


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * x).relu()


@pytest.mark.parametrize(
    ("model", "x", "reason"),
    [
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.ReLU()), torch.randn(8, 3, 8, 8), r"1 x conv_transpose2d: transposed"),
        (Squares(), X, "it has no Linear, patch embedding or attention"),
    ],
)
@pytest.mark.parametrize("recipe", ["w8a8", "w4a4", "repq-vit-w4a4"])
def test_a_network_with_nothing_to_quantize_is_said_to_be_float(model: nn.Module, x: Tensor, reason: str, recipe: str) -> None:
    with pytest.warns(UserWarning, match=f"nothing was found to quantize, the result is the float network.*{reason}"):
        graph = qpass.quantize_graph(model.eval(), [x], recipe, progress=False)
    torch.testing.assert_close(graph(x), model(x))


def test_rules_may_leave_everything_float_and_the_others_do_not_warn() -> None:
    with pytest.warns(UserWarning, match="2 x linear: a rule of the config leaves it in float"):
        qpass.quantize_graph(network(), [X], {"rules": {"*": None}}, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qpass.quantize_graph(network(), [X], progress=False)


def test_a_graph_inside_another_module_is_refused_with_what_to_do(graph: torch.fx.GraphModule, tmp_path: Path) -> None:
    wrapped = nn.Sequential(nn.Identity(), nn.Sequential(graph, nn.Softmax(-1)))
    calls = {
        "export_onnx": lambda: qpass.export_onnx(wrapped, tmp_path / "m.onnx"),
        "verify_onnx": lambda: qpass.verify_onnx(wrapped, tmp_path / "m.onnx", X),
        "onnxruntime_model": lambda: qpass.onnxruntime_model(wrapped, tmp_path / "m.onnx"),
        "report": lambda: qpass.quantization_report(wrapped),
        "save": lambda: qpass.save(wrapped, tmp_path / "m.qpass"),
    }
    for call in calls.values():
        with pytest.raises(QPassError, match=r"1\.0: got a Sequential around a quantized graph; .* get_submodule\('1\.0'\)"):
            call()
    assert list(tmp_path.iterdir()) == []
    qpass.export_onnx(wrapped.get_submodule("1.0"), tmp_path / "m.onnx")


def test_parts_are_not_written_onto_a_file_or_into_a_missing_folder(graph: torch.fx.GraphModule, tmp_path: Path) -> None:
    model = qpass.quantize_graph(nn.Sequential(network(), nn.Softmax(-1)), [X], submodules=["0"], progress=False)
    (tmp_path / "m.onnx").write_bytes(b"mine")
    with pytest.raises(LoweringError, match=r"m\.onnx: is a file; expected a folder, for a file of each part"):
        qpass.export_onnx(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == b"mine"
    for what in (model, graph):
        with pytest.raises(LoweringError, match=r"missing: .*folder"):
            qpass.export_onnx(what, tmp_path / "missing" / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (qpass.export_onnx(model, tmp_path / "parts") / "0.onnx").is_file()
