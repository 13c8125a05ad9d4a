"""A file is written whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qpass.backends.onnx_qdq.write import check_writable, write_model
from qpass.errors import LoweringError

WEIGHT = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)


def model(operator: str = "MatMul") -> ir.Model:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [2, 64]), ("y", [2, 3])))
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"])], "g", [x], [y], [numpy_helper.from_array(WEIGHT, "w")]
    )
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


@pytest.mark.parametrize(("most", "beside"), [(2**20, False), (100, True)], ids=["in the file", "beside it"])
def test_weights_that_are_too_large_lie_beside_the_file(most: int, beside: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(model(), path, external_bytes=most)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.onnx", *(["m.onnx.data"] if beside else [])]
    assert (path.stat().st_size < WEIGHT.nbytes) == beside
    x = np.ones((2, 64), np.float32)
    (found,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    np.testing.assert_allclose(found, x @ WEIGHT, rtol=1e-5)


def test_a_graph_that_onnx_refuses_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"what was there")
    with pytest.raises(LoweringError, match=r"m\.onnx: onnx.checker refuses the lowered graph: .*report this"):
        write_model(model("NoSuchOperator"), tmp_path / "m.onnx")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("m.onnx", b"what was there")]


def test_paths_that_cannot_be_written_are_refused_before_any_work(tmp_path: Path) -> None:
    assert check_writable(tmp_path / "m.onnx") == tmp_path / "m.onnx"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LoweringError, match="is a folder; expected the path of a file"):
        check_writable(tmp_path)
    with pytest.raises(LoweringError, match="no: the folder does not exist; create it first"):
        check_writable(tmp_path / "no" / "m.onnx")


def test_a_folder_that_is_read_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("qpass.backends.onnx_qdq.write.tempfile.TemporaryFile", refuse)
    with pytest.raises(LoweringError, match=r"the folder cannot be written to \(Permission denied\)"):
        check_writable(tmp_path / "m.onnx")


def test_a_disk_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qpass.backends.onnx_qdq.write.ir.save", full)
    with pytest.raises(LoweringError, match=r"m\.onnx: cannot be written \(No space left on device\)"):
        write_model(model(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
