"""Copies of a file in which every layer reads the codes it is given and reports what it computes.

Where a code flips on a tie, everything behind it differs, and a whole network cannot be compared code by code. Fed with the
reference's codes at each quantizer, every layer is compared on the same input and an error stays where it arose.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from qpass.backends.onnx_qdq.layer_outputs import OUTPUT
from qpass.backends.onnx_qdq.lowerings import CODES
from qpass.backends.onnxruntime.excerpt import excerpt
from qpass.backends.onnxruntime.rounding_node import FileConstants, RoundingNode, offset_of, rounding_nodes, wrong_constants
from qpass.errors import VerifyError
from qpass.quantizers import Quantizer

#: End the names of outputs: the codes that a layer computes, and the values that it rounds to them.
COMPUTED = ".computed"
VALUE = ".value"


class CodesOfFile:
    """A file and torch's codes of each of its quantizers, which the file may store 128 higher, as uint8.

    Weights that lie beside the file stay there: its copies refer to them.

    Args:
        path: The file.
        quantizers: The quantizers of the graph by name.
        codes: The codes of each.

    Attributes:
        folder: Where weights beside the file lie.
        layer_outputs: The value that each quantized layer gives, by the layer's name.

    Raises:
        VerifyError: If the file cannot be read, lacks the codes of a quantizer, or has codes that the graph has not.
    """

    def __init__(self, path: str | Path, quantizers: Mapping[str, Quantizer], codes: Mapping[str, Tensor]) -> None:
        self.folder = Path(path).absolute().parent
        self._model, self._quantizers, self._codes = _read(path), quantizers, codes
        self._constants = FileConstants(self._model, self.folder)
        self._nodes = rounding_nodes(self._model, self._constants, codes)
        named = [node for node in self._model.graph.node if node.name.endswith(OUTPUT)]
        self.layer_outputs = {node.name.removesuffix(OUTPUT): str(node.output[0]) for node in named}

    def forced(self, *, values: bool = False) -> onnx.ModelProto:
        """Returns the model with, for each quantizer ``q``, an input ``q.codes`` and an output ``q.codes.computed``.

        Args:
            values: Add an output ``q.codes.value``: what is rounded to the codes, in float and in the order of the codes. It
                keeps onnxruntime from fusing what it would fuse without.
        """
        model = copy.deepcopy(self._model)
        if values:
            for name, found in self._nodes.items():
                _expose_value(model, name + CODES + VALUE, found)
        forced = {name + CODES for name in self._nodes}
        for node in model.graph.node:
            for place, name in enumerate(node.output):
                if name in forced:
                    node.output[place] = name + COMPUTED
        for name, found in self._nodes.items():
            model.graph.input.append(helper.make_tensor_value_info(name + CODES, found.type, None))
            model.graph.output.append(helper.make_tensor_value_info(name + CODES + COMPUTED, found.type, None))
        return model

    def exposed(self) -> onnx.ModelProto:
        """Returns the model with, for each quantizer ``q``, an output ``q.codes``; it runs as before."""
        model = copy.deepcopy(self._model)
        for name, found in self._nodes.items():
            model.graph.output.append(helper.make_tensor_value_info(name + CODES, found.type, None))
        return model

    def excerpt(self, values: Sequence[str]) -> onnx.ModelProto:
        """Returns the operators that give these values, with an input ``q.codes`` for each quantizer ``q`` before them."""
        given = [helper.make_tensor_value_info(name + CODES, found.type, None) for name, found in self._nodes.items()]
        return excerpt(self._model, values, given)

    def input_of(self, name: str, layer: str) -> str:
        """Returns the value that a layer reads.

        Args:
            name: The layer's name among ``layer_outputs``.
            layer: What begins the names of the nodes that were made for it.
        """
        producers = {value: node for node in self._model.graph.node for value in node.output}
        value = self.layer_outputs[name]
        while value in producers and producers[value].name.startswith((f"{layer}.", name + OUTPUT)):
            value = producers[value].input[0]
        return value

    def feed(self, codes: Mapping[str, Tensor] | None = None) -> dict[str, np.ndarray]:
        """Returns torch's codes, or others, as inputs of the forced model."""
        found = {}
        for quantizer, given in (self._codes if codes is None else codes).items():
            dtype = helper.tensor_dtype_to_np_dtype(self._nodes[quantizer].type)
            offset = self._offset(quantizer)
            stored = given if not offset else given.to(torch.int16) + offset
            found[quantizer + CODES] = stored.numpy().astype(dtype, copy=False)
        return found

    def read(self, quantizer: str, stored: np.ndarray) -> Tensor:
        """Returns codes that the file computes for a quantizer as torch has them."""
        codes, offset = torch.from_numpy(stored), self._offset(quantizer)
        return (codes if not offset else codes.to(torch.int16) - offset).to(self._codes[quantizer].dtype)

    def wrong_constants(self) -> dict[str, str]:
        """Returns what is wrong with the constants of each quantizer, "" where they are the graph's."""
        return {
            name: wrong_constants(quantizer, self._nodes[name], self._constants) for name, quantizer in self._quantizers.items()
        }

    def _offset(self, quantizer: str) -> int:
        return offset_of(self._quantizers[quantizer], self._nodes[quantizer])


def _expose_value(model: onnx.ModelProto, name: str, found: RoundingNode) -> None:
    """Adds an output for what a quantizer rounds, moved as its codes are."""
    value, nodes = _value_before(model, name, found)
    for index, move in enumerate(node for node in found.behind if node.op_type != "Clip"):
        copied = copy.deepcopy(move)
        copied.input[0], copied.output[0], copied.name = value, f"{name}.{index}", f"{name}.{index}.node"
        value = copied.output[0]
        nodes.append(copied)
    model.graph.node.extend([*nodes, helper.make_node("Identity", [value], [name])])
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def _value_before(model: onnx.ModelProto, name: str, found: RoundingNode) -> tuple[str, list[onnx.NodeProto]]:
    """Returns the float that is rounded, and the operators that compute it where the file has none."""
    inputs = found.node.input
    if found.node.op_type == "QLinearMatMul":  # gives codes at once
        factors = [f"{name}.{side}" for side in ("first", "second")]
        nodes = [helper.make_node("DequantizeLinear", inputs[i : i + 3], [factors[i // 3]]) for i in (0, 3)]
        return f"{name}.product", [*nodes, helper.make_node("MatMul", factors, [f"{name}.product"])]
    clip = next((node for node in model.graph.node if inputs[0] in node.output and node.op_type == "Clip"), None)
    own = clip is not None and clip.name.startswith(name.removesuffix(CODES + VALUE) + ".")
    return (clip.input[0] if clip is not None and own else inputs[0]), []


def _read(path: str | Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf and onnx raise several kinds
        raise VerifyError(f"cannot be read as ONNX: {next(iter(str(error).splitlines()), '')}", where=str(path)) from error
    del model.graph.value_info[:]
    return model
