"""What the installed onnxruntime loads: probed, not looked up."""

from __future__ import annotations

from functools import cache

import onnx
import onnxruntime
from onnx import TensorProto, helper

from qpass.errors import LoweringError

#: The least opset with INT4 and UINT4 tensors; newer ones buy these files nothing and load in fewer runtimes.
PREFERRED_OPSET = 21
#: The least opset with native LayerNormalization and Gelu, which the exporter then keeps whole.
LEAST_OPSET = 20


def loads(opset: int, ir_version: int) -> bool:
    """Tells whether onnxruntime loads a model of that opset and IR version."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's own exception types differ between versions
        return False
    return True


def explain(opset: int) -> str:
    """Returns why a file has its opset, IR version and types: it stands in the file's metadata as ``qpass.format``."""
    runtime, version = f"onnxruntime {onnxruntime.__version__}", ir_version_for(opset)
    types = "with 4-bit integers" if opset >= PREFERRED_OPSET else "without 4-bit integers, which are packed into bytes"
    least = ", the least with them" if opset == PREFERRED_OPSET else ""
    native = version == helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    origin = "the one that opset came with" if native else f"the newest that {runtime} loads"
    return f"opset {opset} {types}{least}; IR version {version}, {origin}; tried in {runtime}"


@cache
def ir_version_for(opset: int) -> int:
    """Returns the IR version to write for an opset: the one it came with, or the newest that onnxruntime loads.

    Raises:
        LoweringError: If onnxruntime loads no model of that opset.
    """
    newest = onnx.defs.onnx_opset_version()
    if not LEAST_OPSET <= opset <= newest:
        raise LoweringError(f"opset {opset}", where="export_onnx", expected=f"an opset from {LEAST_OPSET} to {newest}")
    wanted = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    for version in range(wanted, 7, -1):
        if loads(opset, version):
            return int(version)
    raise LoweringError(
        f"onnxruntime {onnxruntime.__version__} does not load opset {opset}",
        where="export_onnx",
        hint=f"leave opset out: {PREFERRED_OPSET} is taken",
    )
