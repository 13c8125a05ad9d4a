"""What the patterns of several rules recognize, in onnx's text form."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qpass.backends.onnx_qdq.emit import Emitter
from qpass.backends.onnx_qdq.rules.patterns import (
    only_reader_below,
    product_below,
    rescaled,
    rescaled_product,
    scalar,
    weight_product,
)
from qpass.graph.rewrite import Decline

CONSTANTS = (
    "float s = {0.5}, float[1,1] s2 = {0.25}, float[2] v = {1.0, 2.0}, uint8 z = {3}, int8 zi = {0}, float w1 = {0.5},"
    "int8[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}"
)


def values(body: str, outputs: str = "float[3,2] y") -> dict[str, ir.Value]:
    text = f'<ir_version: 10, opset_import: ["": 21]> g (uint8[3,4] a, int8[4,2] b) => ({outputs}) <{CONSTANTS}> {{ {body} }}'
    graph = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))).graph
    made = [value for node in graph for value in node.outputs]
    return {str(value.name): value for value in [*graph.inputs, *graph.initializers.values(), *made]}


INTEGER = "i = MatMulInteger(a, b, z, zi)\n f = Cast<to=1>(i)\n m = Mul(f, s)\n"


def test_one_number_is_a_scalar_whatever_its_dims() -> None:
    found = values(INTEGER + "y = Neg(m)")
    assert [scalar(found[name]) for name in ("s", "s2", "v", "a", "m")] == [0.5, 0.25, None, None, None]
    assert scalar(None) is None


def test_an_operator_with_one_reader_is_found() -> None:
    found = values(INTEGER + "y = Add(m, m)")
    assert only_reader_below(found["f"], "Cast", "Neg") is found["f"].producer()
    assert only_reader_below(found["f"], "Neg") is None
    assert only_reader_below(found["m"], "Neg") is None, "read twice, but another operator"
    with pytest.raises(Decline, match=r"^something else reads the Mul below it$"):
        only_reader_below(found["m"], "Mul")
    assert only_reader_below(found["a"], "Mul") is None, "an input"
    assert only_reader_below(None, "Mul") is None


def test_what_is_an_output_as_well_has_another_reader() -> None:
    found = values(INTEGER + "y = Neg(m)", "float[3,2] y, float[3,2] m")
    with pytest.raises(Decline, match="something else reads the Mul"):
        only_reader_below(found["m"], "Mul")


@pytest.mark.parametrize(
    ("old", "new"),
    [("a, b, z, zi", "a, b"), ("Mul(f, s)", "Mul(f, v)")],
    ids=["without zero points", "a scale for each column"],
)
def test_a_rescaled_product_is_an_integer_product_times_a_number(old: str, new: str) -> None:
    found = values(INTEGER + "y = Neg(m)")
    product = rescaled_product(found["m"])
    assert product == (found["i"].producer(), 0.5)
    assert product_below(found["m"].producer()) == product  # type: ignore[arg-type]
    assert rescaled_product(values((INTEGER + "y = Neg(m)").replace(old, new))["m"]) is None


def test_sums_that_others_read_are_declined() -> None:
    found = values(INTEGER.replace("Cast<to=1>(i)", "Cast<to=1>(i)\n g = Neg(i)") + "y = Neg(m)")
    with pytest.raises(Decline, match="something else reads the MatMulInteger below it"):
        rescaled_product(found["m"])


def test_any_number_of_nodes_may_read_the_rescaled_value() -> None:
    found = values(INTEGER + "y = Add(m, m)")
    with pytest.raises(Decline, match="something else reads the Mul"):
        rescaled_product(found["m"])
    assert product_below(found["m"].producer()) == (found["i"].producer(), 0.5)  # type: ignore[arg-type]


def test_an_integer_product_is_rescaled_by_a_cast_and_a_mul() -> None:
    found = values(INTEGER + "y = Neg(m)")
    emit = Emitter(ir.Graph([], [], nodes=[], opset_imports={"": 21}), "p")
    value = rescaled(found["i"], found["s"], emit)
    assert [node.op_type for node in emit.nodes] == ["Cast", "Mul"]
    assert value.producer() is emit.nodes[1]
    assert emit.nodes[0].attributes["to"].as_int() == ir.DataType.FLOAT


WEIGHT = "x = DequantizeLinear(a, s, z)\n q = DequantizeLinear<axis=1>(w, v)\n p = MatMul(x, q)\n y = Neg(p)"


def test_a_product_with_a_weight_has_a_scale_for_each_column() -> None:
    found = values(WEIGHT)
    product = weight_product(found["p"])
    assert product is not None
    assert [None if value is None else value.name for value in product] == ["a", "s", "z", "w", "v", None]
    assert product.w_scale.const_value is not None
    np.testing.assert_array_equal(product.w_scale.const_value.numpy(), [1, 2])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("DequantizeLinear(a, s, z)", "DequantizeLinear(a, s)"),
        ("(w, v)", "(w, w1)"),
        ("MatMul(x, q)", "Gemm(x, q)"),
        ("x = DequantizeLinear(a, s, z)", "x = Cast<to=1>(a)"),
    ],
    ids=["no zero point", "one scale for the weight", "another product", "no codes"],
)
def test_others_are_none(old: str, new: str) -> None:
    text = WEIGHT.replace(old, new).replace("<axis=1>(w, w1)", "(w, w1)")
    assert weight_product(values(text)["p"]) is None


def test_a_product_that_others_read_is_declined_only_if_it_is_one_of_codes() -> None:
    text = WEIGHT.replace("MatMul(x, q)", "MatMul(x, q)\n r = Neg(p)")
    with pytest.raises(Decline, match="something else reads the MatMul"):
        weight_product(values(text)["p"])
    assert weight_product(values(text.replace("x = DequantizeLinear(a, s, z)", "x = Cast<to=1>(a)"))["p"]) is None
