"""onnx's own backend node tests of the operators in our files, in the form that our evaluators take."""

from __future__ import annotations

import copy
import functools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from tests.contracts.reference_evaluator import evaluator

OPERATORS = re.compile("test_(quantizelinear|dequantizelinear|qlinearmatmul|matmulinteger)")
#: The opset of our files, and the IR version that goes with it; onnx's tests are of the newest, which no runtime has yet.
OPSET, IR_VERSION = 21, 10
#: Types that numpy lacks, and what their values are compared in.
_WIDER = {
    TensorProto.INT4: TensorProto.INT8,
    TensorProto.UINT4: TensorProto.UINT8,
    TensorProto.FLOAT8E4M3FN: TensorProto.FLOAT,
    TensorProto.FLOAT8E5M2: TensorProto.FLOAT,
}
#: Types that opset 21 does not have.
_NEWER = (TensorProto.INT2, TensorProto.UINT2, TensorProto.FLOAT4E2M1)


@dataclass(frozen=True)
class NodeTest:
    """A model of one node whose inputs are constants, and the outputs that onnx wants."""

    name: str
    model: onnx.ModelProto
    expected: Sequence[np.ndarray]


@functools.cache
def node_tests() -> Mapping[str, NodeTest]:
    """Returns the tests of these operators at opset 21, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx computes with infinities to make other tests
        from onnx.backend.test.loader import load_model_tests

        cases = [case for case in load_model_tests(kind="node") if OPERATORS.match(case.name)]
    return {case.name: _prepared(case) for case in cases if case.model and not _types(case.model) & set(_NEWER)}


def _types(model: onnx.ModelProto) -> set[int]:
    return {value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]}


def _prepared(case: object) -> NodeTest:
    """Makes the inputs constants, so that types without a numpy array can be fed, and casts such outputs to a wider type."""
    model = copy.deepcopy(case.model)  # type: ignore[attr-defined]
    model.ir_version, model.opset_import[0].version = IR_VERSION, OPSET
    ((inputs, outputs),) = case.data_sets  # type: ignore[attr-defined]
    graph = model.graph
    for value, array in zip(graph.input, inputs, strict=True):
        graph.initializer.append(_tensor(array, value.name))
    del graph.input[:]
    for value in graph.output:
        element = value.type.tensor_type
        if element.elem_type in _WIDER:
            element.elem_type, inner = _WIDER[element.elem_type], f"{value.name}_narrow"
            (node,) = (node for node in graph.node if value.name in node.output)
            node.output[:] = [inner if name == value.name else name for name in node.output]
            graph.node.append(helper.make_node("Cast", [inner], [value.name], to=element.elem_type))
    arrays = [numpy_helper.to_array(_tensor(array, "")) for array in outputs]
    wider = [helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in graph.output]
    return NodeTest(case.name, model, [array.astype(to) for array, to in zip(arrays, wider, strict=True)])  # type: ignore[attr-defined]


def _tensor(value: object, name: str) -> TensorProto:
    tensor = copy.deepcopy(value) if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value))
    tensor.name = name
    return tensor


def in_onnxruntime(test: NodeTest) -> list[np.ndarray]:
    """Runs the node in onnxruntime, optimisations off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(test.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {}))


def in_evaluator(test: NodeTest) -> list[np.ndarray]:
    """Runs the node in the evaluator that judges our files."""
    return list(evaluator(copy.deepcopy(test.model)).run(None, {}))


def check(test: NodeTest, results: Sequence[np.ndarray]) -> None:
    """Compares with what onnx wants: integers exactly, floats to a rounding error of their type."""
    assert len(results) == len(test.expected)
    for result, expected in zip(results, test.expected, strict=True):
        assert result.dtype == expected.dtype
        if np.issubdtype(expected.dtype, np.floating):
            np.testing.assert_allclose(result, expected, rtol=4 * np.finfo(expected.dtype).eps)
        else:
            np.testing.assert_array_equal(result, expected)


def outcome(test: NodeTest, run: Callable[[NodeTest], list[np.ndarray]]) -> str:
    """Returns "yes", or what went wrong."""
    try:
        check(test, run(test))
    except Exception as error:  # runtimes raise many kinds
        return " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return "yes"
