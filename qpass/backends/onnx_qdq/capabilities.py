"""Capabilities of the installed onnxruntime, determined by probing."""

from __future__ import annotations

from enum import StrEnum
from functools import cache

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from qpass.errors import LoweringError, nearest

#: The first opset with INT4 and UINT4 tensors. Later opsets have nothing that these files need, and
#: load in fewer runtimes.
PREFERRED_OPSET = 21
#: The first opset with native LayerNormalization and Gelu, so that the exporter does not decompose
#: them.
LEAST_OPSET = 20


class WeightType(StrEnum):
    """How a file stores 8-bit second operands of products."""

    AUTO = "auto"
    """int8 if it is exact on this machine, else uint8."""
    INT8 = "int8"
    """The fastest; exact on processors with VNNI, and on those that are not x86."""
    UINT8 = "uint8"
    """Exact on every processor."""


def loads(opset: int, ir_version: int) -> bool:
    """Returns whether onnxruntime loads a model of this opset and IR version."""
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


@cache
def int8_matmul_is_exact() -> bool:
    """Returns whether onnxruntime's uint8 x int8 products are exact on this machine.

    x86 processors before AVX512-VNNI and AVX-VNNI add pairs of such products in 16 bits, where
    twice 255 x 127 overflows.
    """
    kinds = {"a": TensorProto.UINT8, "b": TensorProto.INT8, "y": TensorProto.INT32}
    a, b, y = (helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in kinds.items())
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "probe", [a, b], [y])
    imports = [helper.make_opsetid("", PREFERRED_OPSET)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version_for(PREFERRED_OPSET))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    side = 64
    for code in (127, -128):
        feed = {"a": np.full((side, side), 255, np.uint8), "b": np.full((side, side), code, np.int8)}
        if (session.run(None, feed)[0] != side * 255 * code).any():
            return False
    return True


def use_int8_weights(weight_type: str) -> bool:
    """Returns whether to store 8-bit second operands as int8, for the argument of ``export_onnx``.

    Raises:
        LoweringError: If ``weight_type`` is no ``WeightType``.
    """
    names = [each.value for each in WeightType]
    if weight_type not in names:
        hint = nearest(str(weight_type), names)
        raise LoweringError(f"no weight type is called {weight_type!r}", where="weight_type", hint=hint)
    return int8_matmul_is_exact() if weight_type == WeightType.AUTO else weight_type == WeightType.INT8


def explain_weight_type(weight_type: str) -> str:
    """Explains the storage type of 8-bit second operands."""
    if weight_type != WeightType.AUTO:
        return f"8-bit factors {weight_type}, as asked for"
    if use_int8_weights(weight_type):
        return "8-bit factors int8, whose products with uint8 are exact here"
    return "8-bit factors uint8, since sums of uint8 x int8 products overflow here"


def explain(opset: int, *, packs: bool = True) -> str:
    """Explains a file's opset and IR version, for its metadata entry ``qpass.format``.

    Args:
        opset: The opset.
        packs: Whether codes of fewer than 8 bits are packed.
    """
    runtime, version = f"onnxruntime {onnxruntime.__version__}", ir_version_for(opset)
    types = " with 4-bit integers" if opset >= PREFERRED_OPSET else " without 4-bit integers, which are packed into bytes"
    least = ", the least with them" if opset == PREFERRED_OPSET else ""
    types = f"{types}{least}" if packs else ""
    native = version == helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    origin = "the one that opset came with" if native else f"the newest that {runtime} loads"
    return f"opset {opset}{types}; IR version {version}, {origin}; tried in {runtime}"


@cache
def ir_version_for(opset: int) -> int:
    """Returns an opset's IR version: the one it was released with, or the newest that onnxruntime loads.

    Raises:
        LoweringError: If the opset is out of range, or onnxruntime loads no model of it.
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
        hint=f"leave opset out to use {PREFERRED_OPSET}",
    )
