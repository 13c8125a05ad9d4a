"""A copy of a file in which every layer reads the codes it is given and reports those it computes.

Where a code flips on a tie, everything behind it differs, and a whole network cannot be compared code by code. Fed with the
reference's codes at each quantizer, every layer is compared on the same input and an error stays where it arose.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from qpass.backends.onnx_qdq.lowerings import CODES
from qpass.errors import VerifyError

COMPUTED = ".computed"


def force_codes(path: str | Path, codes: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Returns the model with, for each quantizer ``q``, an input ``q.codes`` and an output ``q.codes.computed``.

    Args:
        path: The file.
        codes: The codes of each quantizer, for their types.

    Raises:
        VerifyError: If the file cannot be read or lacks the codes of a quantizer.
    """
    model = _read(path)
    for name, (node, kind) in _code_nodes(model, codes).items():
        node.output[list(node.output).index(name)] = name + COMPUTED
        model.graph.input.append(helper.make_tensor_value_info(name, kind, None))
        model.graph.output.append(helper.make_tensor_value_info(name + COMPUTED, kind, None))
    return model


def expose_codes(path: str | Path, codes: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Returns the model with, for each quantizer ``q``, an output ``q.codes``; it runs as before.

    Raises:
        VerifyError: As ``force_codes``.
    """
    model = _read(path)
    for name, (_, kind) in _code_nodes(model, codes).items():
        model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return model


def _read(path: str | Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise several kinds
        raise VerifyError(f"cannot be read as ONNX: {next(iter(str(error).splitlines()), '')}", where=str(path)) from error
    del model.graph.value_info[:]
    return model


def _code_nodes(model: onnx.ModelProto, codes: Mapping[str, Tensor]) -> dict[str, tuple[onnx.NodeProto, int]]:
    """Returns the node that computes the codes of each quantizer and their ONNX type, by the name of the codes."""
    producers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for quantizer, tensor in codes.items():
        name = quantizer + CODES
        if name not in producers:
            raise VerifyError(
                "the file holds no codes of this quantizer",
                where=quantizer,
                expected="the file that export_onnx wrote from this graph",
            )
        found[name] = producers[name], int(TensorProto.INT8 if tensor.dtype == torch.int8 else TensorProto.UINT8)
    return found
