from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from qpass.backends.onnxruntime.footprint import footprint
from qpass.errors import LoweringError


def file_of(megabytes: int, path: Path) -> Path:
    """A product with a float weight of that size."""
    rows = megabytes * 250
    weight = onnx.numpy_helper.from_array(np.ones((1000, rows), np.float32), "w")
    types = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", d]) for n, d in (("x", 1000), ("y", rows))]
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", types[:1], types[1:], [weight])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_a_larger_weight_takes_more_memory_and_more_time(tmp_path: Path) -> None:
    small, large = (footprint(file_of(size, tmp_path / f"{size}.onnx"), processes=1) for size in (1, 100))
    assert small.size_mb == pytest.approx(1, rel=0.01)
    assert large.size_mb == pytest.approx(100, rel=0.01)
    assert large.peak_mb - small.peak_mb > 90
    assert 0 < small.load_ms < large.load_ms


def test_weights_beside_the_file_count(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(file_of(2, path)), path, save_as_external_data=True, location="m.onnx.data")
    assert footprint(path, processes=1).size_mb == pytest.approx(2, rel=0.01)


def test_a_file_that_does_not_load_is_an_error() -> None:
    with pytest.raises(LoweringError, match="cannot load it"):
        footprint(__file__)
