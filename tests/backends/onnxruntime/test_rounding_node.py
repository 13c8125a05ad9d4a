"""The operators behind a quantizer's codes in a file, and the constants that they have to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import qpass
from qpass.backends.onnxruntime.rounding_node import FileConstants, offset_of, rounding_nodes, wrong_constants
from qpass.backends.onnxruntime.verification import Verification
from qpass.data import ModelInputs
from qpass.errors import VerifyError
from qpass.quantizers import Uniform
from tests.tampering import with_initializer


def model(
    *, clip: tuple[int, int] | None = None, scale: float = 0.5, zero: int = 3, moved: bool = False, other: bool = False
) -> onnx.ModelProto:
    """A file whose quantizer ``q`` rounds its input."""
    kind = np.uint8
    constants = [numpy_helper.from_array(np.float32(scale), "s"), numpy_helper.from_array(kind(zero), "z")]
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["a"])]
    last = "a"
    if clip is not None:
        constants += [numpy_helper.from_array(kind(bound), name) for bound, name in zip(clip, ("lo", "hi"), strict=True)]
        nodes.append(helper.make_node("Clip", [last, "lo", "hi"], [last := "b"]))
    if moved:
        nodes.append(helper.make_node("Transpose", [last], [last := "c"], perm=[1, 0]))
    nodes[-1].output[0] = "q.codes"
    if other:
        nodes.append(helper.make_node("Identity", ["q.codes"], ["p.codes"]))
    value = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])]
    output = [helper.make_tensor_value_info("q.codes", TensorProto.UINT8, None)]
    return helper.make_model(helper.make_graph(nodes, "g", value, output, constants))


def quantizer(bits: int = 4, scale: float = 0.5, zero: float = 3.0, signed: bool = False) -> Uniform:
    return Uniform(bits, signed=signed).set_parameters(torch.tensor(scale), torch.tensor(zero))


def constants_of(file: onnx.ModelProto) -> FileConstants:
    return FileConstants(file, Path())


def test_the_rounding_is_found_behind_clips_and_movements() -> None:
    file = model(clip=(0, 15), moved=True)
    found = rounding_nodes(file, constants_of(file), ["q"])["q"]
    assert found.node.op_type == "QuantizeLinear"
    assert [node.op_type for node in found.behind] == ["Clip", "Transpose"]
    assert found.type == TensorProto.UINT8
    assert wrong_constants(quantizer(), found, constants_of(file)) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale": 0.5000001}, "scale 0.500000119"),
        ({"zero": 4}, "zero point 4.0 in the file and 3 in the graph"),
        ({"clip": (0, 14)}, "greatest code 14.0 in the file and 15 in the graph"),
        ({"clip": (1, 15)}, "least code 1.0 in the file and 0 in the graph"),
    ],
)
def test_a_constant_that_differs_is_named_with_both_values(changes: dict[str, object], said: str) -> None:
    file = model(**{"clip": (0, 15), **changes})  # type: ignore[arg-type]
    found = rounding_nodes(file, constants_of(file), ["q"])["q"]
    assert said in wrong_constants(quantizer(), found, constants_of(file))


def test_signed_codes_may_be_stored_128_higher() -> None:
    file = model(zero=131, clip=(120, 135))
    found = rounding_nodes(file, constants_of(file), ["q"])["q"]
    assert offset_of(quantizer(signed=True), found) == 128
    assert offset_of(quantizer(), found) == 0
    assert wrong_constants(quantizer(signed=True), found, constants_of(file)) == ""


def test_a_quantizer_that_only_one_of_both_has_is_named() -> None:
    file = model()
    with pytest.raises(VerifyError, match="r: the file holds no codes of this quantizer"):
        rounding_nodes(file, constants_of(file), ["q", "r"])
    more = model(other=True)
    with pytest.raises(VerifyError, match="p: the file quantizes here and the graph does not"):
        rounding_nodes(more, constants_of(more), ["q"])


def test_codes_that_are_no_bytes_are_none() -> None:
    file = model()
    file.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.int32(3), "z"))
    with pytest.raises(VerifyError, match="q: the file holds no codes"):
        rounding_nodes(file, constants_of(file), ["q"])


def test_numbers_are_those_of_one_element() -> None:
    file = model()
    file.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "two"))
    constants = constants_of(file)
    assert constants.number("s") == 0.5
    assert constants.number("two") is None
    assert constants.number("nothing") is None
    assert constants.type_of("nothing") is None
    assert constants.type_of("z") == TensorProto.UINT8


class Attends(nn.Module):
    """One attention matrix of 3 x 3 for each sample: far fewer probabilities than a table has entries."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return (self.query(x) @ x.mT).softmax(-1) @ self.value(x)


@pytest.mark.slow(after=1)
@pytest.mark.parametrize(
    ("config", "tables"),
    [
        ("codebook-w3a3", 4),
        ("w4a4", 1),
        ({"preset": "w8a8", "post_softmax": {"quantizer": "shift-log2"}}, 1),
        ({"preset": "w8a8", "post_softmax": {"quantizer": "tan"}}, 1),
    ],
    ids=["bytes", "cells", "shift-log2", "tan"],
)
def test_every_entry_of_a_table_is_compared(config: Any, tables: int, tmp_path: Path) -> None:
    """Also those that neither torch's nor random codes look up."""
    torch.manual_seed(0)
    graph = qpass.quantize_graph(Attends().eval(), [torch.randn(16, 3, 8)], config, progress=False)
    path = qpass.export_onnx(graph, tmp_path / "m.onnx")
    verification = Verification(graph, ModelInputs((torch.randn(1, 3, 8),), {}))
    assert verification.of(path).passed
    model, changed = onnx.load(path), tmp_path / "changed.onnx"
    found = [(at, each) for at, each in enumerate(model.graph.initializer) if each.name.endswith((".table", ".values"))]
    assert len(found) >= tables
    for at, tensor in found:
        table = numpy_helper.to_array(tensor)
        for place in (0, len(table) // 3, len(table) - 1):
            other = table.copy()
            other[place] = table[place] // 2 + 1
            changed.write_bytes(with_initializer(model, at, numpy_helper.from_array(other, tensor.name)).SerializeToString())
            with pytest.raises(VerifyError, match=f"{tensor.name.partition('.')[0]}: .*entry {place} of its table is"):
                verification.of(changed)
