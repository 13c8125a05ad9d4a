"""Second factors of 8 bits: int8 where sums of uint8 x int8 fit the processor, uint8 everywhere else; the same network."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from torch import Tensor, fx, nn

import qpass
from qpass.backends.onnx_qdq.capabilities import int8_matmul_is_exact
from qpass.backends.onnx_qdq.targets import TARGETS
from qpass.backends.onnxruntime import OrtSession
from qpass.errors import LoweringError, VerifyError
from qpass.quantizers import Uniform
from tests.passes.test_add_residual import recipe as with_residual

#: 8 bits throughout, 8 bits at the ends, and rows of a low-rank branch beside codes of 3 bits.
RECIPES = {"w8a8": "w8a8", "mixed-w4a5": "mixed-w4a5", "w3a8 with a branch": with_residual(4)}


@pytest.fixture(scope="module", params=RECIPES)
def graph(request: pytest.FixtureRequest, vit: nn.Module, images: Tensor) -> fx.GraphModule:
    return qpass.quantize_graph(vit, [images], RECIPES[request.param], progress=False)


@pytest.fixture(scope="module")
def files(quantized: fx.GraphModule, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {kind: qpass.export_onnx(quantized, folder / f"{kind}.onnx", weight_type=kind) for kind in ("int8", "uint8")}


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def wide_int8(path: Path) -> list[str]:
    """Names the int8 constants of a file that hold codes beyond ±64."""
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return [name for name, array in arrays.items() if array.dtype == np.int8 and np.abs(array.astype(int)).max() > 64]


@pytest.mark.slow(after=1)
@pytest.mark.parametrize("target", sorted(name for name, target in TARGETS.items() if not target.lowering.explicit))
def test_uint8_is_exact_on_every_processor(graph: fx.GraphModule, images: Tensor, tmp_path: Path, target: str) -> None:
    path = qpass.export_onnx(graph, tmp_path / "m.onnx", target=target, weight_type="uint8")
    assert qpass.verify_onnx(graph, path, images).passed
    assert wide_int8(path) == []
    assert metadata(path)["qpass.weight_type"] == "uint8"


def test_the_products_are_the_same_operators(files: dict[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        operators = [OrtSession(path, keep_graph=True).operators for path in files.values()]
    assert operators[0] == operators[1]
    assert {"MatMulIntegerToFloat", "MatMulInteger", "QLinearMatMul"} <= set(operators[0])
    assert wide_int8(files["int8"])


def test_int8_is_the_same_network_or_refused(quantized: fx.GraphModule, images: Tensor, files: dict[str, Path]) -> None:
    path = files["int8"]
    if int8_matmul_is_exact():
        assert qpass.verify_onnx(quantized, path, images).passed
        return
    with pytest.warns(UserWarning, match="overflow on this processor"), pytest.raises(VerifyError, match="weight_type='uint8'"):
        qpass.verify_onnx(quantized, path, images)


def test_the_probe_tells_whether_products_are_exact() -> None:
    """Against numpy's int64, on one row as on many, and on an odd number of terms."""
    kinds = {"a": TensorProto.UINT8, "b": TensorProto.INT8, "y": TensorProto.INT32}
    a, b, y = (helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in kinds.items())
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "product", [a, b], [y])
    session = OrtSession(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    generator = np.random.default_rng(0)
    for rows in (1, 3, 200):
        for least, greatest, exact in ((-128, 127, int8_matmul_is_exact()), (-64, 64, True)):
            left = generator.integers(0, 255, (rows, 193), np.uint8, endpoint=True)
            right = generator.integers(least, greatest, (193, 70), np.int8, endpoint=True)
            left[0], right[:, :2] = 255, (least, greatest)
            found = session.run({"a": left, "b": right})["y"]
            assert (found == left.astype(np.int64) @ right).all() == exact


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    ("exact", "kind", "reason"),
    [
        (True, "int8", "int8, whose products with uint8 are exact here"),
        (False, "uint8", "uint8, since sums of uint8 x int8 products overflow here"),
    ],
)
def test_auto_is_int8_where_that_is_exact_and_the_file_says_why(
    exact: bool, kind: str, reason: str, quantized: fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qpass.backends.onnx_qdq.capabilities.int8_matmul_is_exact", lambda: exact)
    path = qpass.export_onnx(quantized, tmp_path / "m.onnx")
    assert metadata(path)["qpass.weight_type"] == kind
    assert metadata(path)["qpass.format"].endswith(f"; 8-bit factors {reason}")


def test_a_session_says_where_a_file_overflows(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpass.backends.onnxruntime.session.int8_matmul_is_exact", lambda: False)
    with pytest.warns(UserWarning, match=rf"{re.escape(str(files['int8']))}: sums .* overflow on this processor.*'uint8'"):
        assert OrtSession(files["int8"]).overflows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not OrtSession(files["uint8"]).overflows


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param({"weight": {"bits": 7}, "activation": {"bits": 7}}, id="second factors of 7 bits"),
        pytest.param({"rules": {"*": {"activation": None, "post_softmax": None}}}, id="weights alone"),
    ],
)
def test_files_whose_sums_fit_say_nothing(vit: nn.Module, images: Tensor, tmp_path: Path, recipe: dict[str, Any]) -> None:
    graph = qpass.quantize_graph(vit, [images], recipe, progress=False)
    wide = {module.signed for module in graph.modules() if isinstance(module, Uniform) and module.bits == 8}
    assert len(wide) == 1, "8 bits on one side, and not on the other"
    path = qpass.export_onnx(graph, tmp_path / "m.onnx", weight_type="int8")
    assert "qpass.weight_type" not in metadata(path)
    assert qpass.verify_onnx(graph, path, images).passed


@pytest.mark.slow
def test_codes_of_few_bits_may_lie_at_the_end_of_their_byte(vit: nn.Module, images: Tensor, tmp_path: Path) -> None:
    """There products overflow as those of 8 bits do."""
    recipe = {role: {"bits": 7} for role in ("activation", "post_softmax", "network_input")}
    graph = qpass.quantize_graph(vit, [images], recipe, progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    assert metadata(path)["qpass.weight_type"] == ("int8" if int8_matmul_is_exact() else "uint8")
    assert qpass.verify_onnx(graph, path, images).passed


def test_an_unknown_type_is_refused(quantized: fx.GraphModule, tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"no weight type is called 'int9'; did you mean 'int8'\?"):
        qpass.export_onnx(quantized, tmp_path / "m.onnx", weight_type="int9")
    assert not list(tmp_path.iterdir())
