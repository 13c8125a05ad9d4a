"""A copy of a file in which every layer reads the codes it is given and reports those it computes.

Where a code flips on a tie, everything behind it differs, and a whole network cannot be compared code by code. Fed with the
reference's codes at each quantizer, every layer is compared on the same input and an error stays where it arose.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from qpass.backends.onnx_qdq.lowerings import CODES, UINT8_OFFSET
from qpass.errors import VerifyError

COMPUTED = ".computed"
#: Which input of an operator that gives codes has their type.
_TYPED_INPUT = {"QuantizeLinear": 2, "Clip": 1, "QLinearMatMul": 7}


class CodesOfFile:
    """A file and torch's codes of each of its quantizers, which the file may store 128 higher, as uint8.

    Args:
        path: The file.
        codes: The codes of each quantizer.

    Raises:
        VerifyError: If the file cannot be read or lacks the codes of a quantizer.
    """

    def __init__(self, path: str | Path, codes: Mapping[str, Tensor]) -> None:
        self._model, self._codes = _read(path), codes
        self._types = _types_of(self._model, codes)

    def forced(self) -> onnx.ModelProto:
        """Returns the model with, for each quantizer ``q``, an input ``q.codes`` and an output ``q.codes.computed``."""
        model = copy.deepcopy(self._model)
        for node in model.graph.node:
            for place, name in enumerate(node.output):
                if name in self._types:
                    node.output[place] = name + COMPUTED
        for name, kind in self._types.items():
            model.graph.input.append(helper.make_tensor_value_info(name, kind, None))
            model.graph.output.append(helper.make_tensor_value_info(name + COMPUTED, kind, None))
        return model

    def exposed(self) -> onnx.ModelProto:
        """Returns the model with, for each quantizer ``q``, an output ``q.codes``; it runs as before."""
        model = copy.deepcopy(self._model)
        for name, kind in self._types.items():
            model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
        return model

    def feed(self) -> dict[str, np.ndarray]:
        """Returns torch's codes as inputs of the forced model."""
        found = {}
        for quantizer, codes in self._codes.items():
            name = quantizer + CODES
            stored = codes.to(torch.int16) + self._offset(quantizer)
            found[name] = stored.numpy().astype(helper.tensor_dtype_to_np_dtype(self._types[name]))
        return found

    def read(self, results: Mapping[str, np.ndarray], suffix: str = "") -> dict[str, Tensor]:
        """Returns the codes of each quantizer among a model's outputs as torch has them.

        Args:
            results: Outputs by name.
            suffix: ``COMPUTED`` for those of the forced model.
        """
        found = {}
        for quantizer, codes in self._codes.items():
            stored = torch.from_numpy(results[quantizer + CODES + suffix]).to(torch.int16)
            found[quantizer] = (stored - self._offset(quantizer)).to(codes.dtype)
        return found

    def _offset(self, quantizer: str) -> int:
        signed = self._codes[quantizer].dtype is torch.int8
        return UINT8_OFFSET if signed and self._types[quantizer + CODES] == TensorProto.UINT8 else 0


def _read(path: str | Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx raise several kinds
        raise VerifyError(f"cannot be read as ONNX: {next(iter(str(error).splitlines()), '')}", where=str(path)) from error
    del model.graph.value_info[:]
    return model


def _types_of(model: onnx.ModelProto, codes: Mapping[str, Tensor]) -> dict[str, int]:
    """Returns the ONNX type of each quantizer's codes, by their name in the file."""
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    types = {}
    for quantizer in codes:
        node = producers.get(quantizer + CODES)
        while node is not None and node.op_type not in _TYPED_INPUT:  # codes may have been moved since they were made
            node = producers.get(node.input[0]) if node.input else None
        kind = None if node is None else constants.get(node.input[_TYPED_INPUT[node.op_type]])
        if kind not in (TensorProto.INT8, TensorProto.UINT8):
            raise VerifyError(
                "the file holds no codes of this quantizer",
                where=quantizer,
                expected="the file that export_onnx wrote from this graph",
            )
        types[quantizer + CODES] = int(kind)
    return types
