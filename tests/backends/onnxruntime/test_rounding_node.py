"""The operators behind a quantizer's codes in a file, and the constants that they have to hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from qpass.backends.onnxruntime.rounding_node import FileConstants, offset_of, rounding_nodes, wrong_constants
from qpass.errors import VerifyError
from qpass.quantizers import Uniform


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
