"""The file in onnx's own reference evaluator, held to what onnxruntime is held to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import fx

from qpass.backends.onnx_qdq.lowerings import CODES
from qpass.backends.onnxruntime.forced import COMPUTED, CodesOfFile
from qpass.backends.onnxruntime.layer_check import check_layers
from qpass.backends.onnxruntime.output_check import check_output
from qpass.backends.onnxruntime.session import OrtSession
from qpass.backends.onnxruntime.torch_run import TorchRun
from qpass.data import ModelInputs
from qpass.graph.signature.input_check import named_inputs


class GatherElements(OpRun):
    """onnx's own fails for more than 64 values."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> tuple[np.ndarray]:
        return (np.take_along_axis(data, indices.astype(np.int64), axis),)


def check_with_reference_evaluator(graph: fx.GraphModule, path: Path, inputs: ModelInputs) -> None:
    """Feeds every layer with torch's codes: the codes that it computes are torch's but for ties, and so are the outputs."""
    reference = TorchRun(graph, inputs)
    codes = CodesOfFile(path, reference.quantizers, reference.codes)
    runner = evaluator(codes.forced())
    feed = OrtSession(path).feed(named_inputs(graph, inputs)) | codes.feed()
    results = dict(zip(runner.output_names, runner.run(None, feed), strict=True))
    computed = {name: codes.read(name, results[name + CODES + COMPUTED]) for name in reference.codes}
    failed = [layer for layer in check_layers(reference, computed.__getitem__) if not layer.passed]
    assert not failed, failed
    outputs = {name: value for name, value in results.items() if not name.endswith(COMPUTED)}
    checks = [check_output(name, value, reference, index) for index, (name, value) in enumerate(outputs.items())]
    assert len(checks) == len(reference.outputs)
    assert all(check.decided and not check.wrong for check in checks), checks


def evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Returns onnx's evaluator for a model, which it changes, with what some versions get wrong put right."""
    return ReferenceEvaluator(without_casts(model), new_ops=[GatherElements])


def without_casts(model: onnx.ModelProto) -> onnx.ModelProto:
    """The evaluator of some onnx versions does not cast from INT4: unpacks the initializers that are cast."""
    cast = {node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT4 and tensor.name in cast:
            values = onnx.numpy_helper.to_array(tensor).astype(np.int8)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model
