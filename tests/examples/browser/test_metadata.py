"""The page reads what a file says about its images, and what is wrong with another file."""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qpass.data import ImageTransform
from tests.examples.javascript import call

HOW = {"input": "x", **ImageTransform(crop=2).to_dict(), "classes": ["Käse", "🐈"]}


def network(**metadata: str) -> bytes:
    """A file with weights, of which the page reads nothing."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [value], [], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    return model.SerializeToString()


def read(function: str, *files: bytes) -> list[dict[str, object]]:
    return call(*(("browser/src/metadata.js", function, [file]) for file in files))


def test_a_files_preprocessing_is_read() -> None:
    file = network(**{"other": "", "qpass.preprocessing": json.dumps(HOW), "last": "x" * 200})
    assert onnx.load_from_string(file).metadata_props[1].value == json.dumps(HOW)
    assert read("readPreprocessing", file) == [{"result": HOW}]


def test_other_files_are_refused_with_the_reason() -> None:
    file = network(other="entry")
    silent, *others = read("readPreprocessing", file, file[: len(file) // 2], b"", b"no ONNX", b"PK\3\4" * 99)
    assert str(silent["error"]).startswith("does not say how its images are preprocessed (metadata qpass.preprocessing)")
    assert others == [{"error": "is no ONNX file, or is cut off"}] * 4
