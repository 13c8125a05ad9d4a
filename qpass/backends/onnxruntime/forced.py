"""A copy of a file in which every layer reads the codes it is given and reports those it computes.

Where a code flips on a tie, everything behind it differs, and a whole network cannot be compared code by code. Fed with the
reference's codes at each quantizer, every layer is compared on the same input and an error stays where it arose.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from qpass.backends.onnx_qdq.lowerings import CODES
from qpass.errors import VerifyError

COMPUTED = ".computed"


def force_codes(path: str | Path, quantizers: Iterable[str]) -> onnx.ModelProto:
    """Returns the model with, for each quantizer ``q``, an input ``q.codes`` and an output ``q.codes.computed``.

    Raises:
        VerifyError: If the file cannot be read or lacks the codes of a quantizer.
    """
    model = _read(path)
    for name, node in _code_nodes(model, quantizers).items():
        node.output[list(node.output).index(name)] = name + COMPUTED
        kind = _code_type(model, node)
        model.graph.input.append(helper.make_tensor_value_info(name, kind, None))
        model.graph.output.append(helper.make_tensor_value_info(name + COMPUTED, kind, None))
    return model


def expose_codes(path: str | Path, quantizers: Iterable[str]) -> onnx.ModelProto:
    """Returns the model with, for each quantizer ``q``, an output ``q.codes``; it runs as before.

    Raises:
        VerifyError: As ``force_codes``.
    """
    model = _read(path)
    for name, node in _code_nodes(model, quantizers).items():
        model.graph.output.append(helper.make_tensor_value_info(name, _code_type(model, node), None))
    return model


def _read(path: str | Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise several kinds
        raise VerifyError(f"cannot be read as ONNX: {next(iter(str(error).splitlines()), '')}", where=str(path)) from error
    del model.graph.value_info[:]
    return model


def _code_nodes(model: onnx.ModelProto, quantizers: Iterable[str]) -> dict[str, onnx.NodeProto]:
    """Returns the node that computes the codes of each quantizer, by the name of the codes."""
    producers = {name: node for node in model.graph.node for name in node.output}
    for quantizer in quantizers:
        if quantizer + CODES not in producers:
            raise VerifyError(
                "the file holds no codes of this quantizer",
                where=quantizer,
                expected="the file that export_onnx wrote from this graph",
            )
    return {quantizer + CODES: producers[quantizer + CODES] for quantizer in quantizers}


def _code_type(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    """The type of a QuantizeLinear's or Clip's output is that of its last input, an initializer."""
    types = {value.name: value.data_type for value in model.graph.initializer}
    return int(types.get(node.input[-1], TensorProto.UINT8))
