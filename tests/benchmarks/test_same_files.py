"""Control files are compared bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from control_files import digest_of_file
from onnx import TensorProto, helper, numpy_helper
from same_files import equal_recipes

IMAGES = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


def file(path: Path, weight: np.ndarray, *, name: str = "w", operator: str = "MatMul") -> Path:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3]) for n in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", name], ["y"])], "g", values[:1], values[1:], [numpy_helper.from_array(weight, name)]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


WEIGHT = np.eye(3, dtype=np.float32)


def test_names_do_not_count(tmp_path: Path) -> None:
    first = digest_of_file(file(tmp_path / "a.onnx", WEIGHT), IMAGES)
    assert digest_of_file(file(tmp_path / "b.onnx", WEIGHT, name="other"), IMAGES) == first


@pytest.mark.parametrize(
    ("weight", "operator"), [(np.nextafter(WEIGHT, np.float32(2)), "MatMul"), (WEIGHT, "Add"), (2 * WEIGHT, "MatMul")]
)
def test_a_constant_or_an_operator_counts(weight: np.ndarray, operator: str, tmp_path: Path) -> None:
    first = digest_of_file(file(tmp_path / "a.onnx", WEIGHT), IMAGES[:, :3].repeat(2, 1)[:3])
    assert digest_of_file(file(tmp_path / "b.onnx", weight, operator=operator), IMAGES[:, :3].repeat(2, 1)[:3]) != first


def test_a_recipe_is_equal_if_it_is_for_every_network() -> None:
    before = {"a": {"w8a8": "1", "w4a4": "2", "w3a3": "3"}, "b": {"w8a8": "4", "w4a4": "5"}}
    after = {"a": {"w8a8": "1", "w4a4": "2", "w3a3": "3"}, "b": {"w8a8": "4", "w4a4": "6"}}
    assert equal_recipes(before, after) == ["w8a8", "w3a3"]
