"""Copies of a file in which every layer reads given codes and outputs the codes that it computes.

If a code flips on a tie, everything downstream differs, so a whole network cannot be compared code
by code. With the reference's codes fed in at each quantizer, every layer is compared on the same
input, and an error stays in its layer.
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

#: Suffixes of output names: the codes that a layer computes, and the values that it rounds to
#: codes.
COMPUTED = ".computed"
VALUE = ".value"


class CodesOfFile:
    """A file and torch's codes of each of its quantizers; the file may store them as uint8, 128 higher.

    External weights stay where they are: copies of the file refer to them.

    Args:
        path: The file.
        quantizers: Quantizers of the graph by name.
        codes: Torch's codes of each quantizer.

    Attributes:
        folder: Folder of external weights.
        layer_outputs: Name of each quantized layer's output value, by the layer's name.

    Raises:
        VerifyError: If the file cannot be read, lacks the codes of a quantizer, or has codes that
            the graph lacks.
    """

    def __init__(self, path: str | Path, quantizers: Mapping[str, Quantizer], codes: Mapping[str, Tensor]) -> None:
        self.folder = Path(path).absolute().parent
        self._model, self._quantizers, self._codes = _read(path), quantizers, codes
        self._constants = FileConstants(self._model, self.folder)
        self._nodes = rounding_nodes(self._model, self._constants, codes)
        named = [node for node in self._model.graph.node if node.name.endswith(OUTPUT)]
        self.layer_outputs = {node.name.removesuffix(OUTPUT): str(node.output[0]) for node in named}

    def forced(self, *, values: bool = False) -> onnx.ModelProto:
        """Returns the model with, per quantizer ``q``, input ``q.codes`` and output ``q.codes.computed``.

        Args:
            values: Add an output ``q.codes.value``: the floats that are rounded to codes, in the
                order of the codes. It prevents some of onnxruntime's fusions.
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
        """Returns the model with an output ``q.codes`` for each quantizer ``q``; it runs as before."""
        model = copy.deepcopy(self._model)
        for name, found in self._nodes.items():
            model.graph.output.append(helper.make_tensor_value_info(name + CODES, found.type, None))
        return model

    def excerpt(self, values: Sequence[str]) -> onnx.ModelProto:
        """Returns the operators that compute these values from inputs ``q.codes`` of the quantizers."""
        given = [helper.make_tensor_value_info(name + CODES, found.type, None) for name, found in self._nodes.items()]
        return excerpt(self._model, values, given)

    def input_of(self, name: str, layer: str) -> str:
        """Returns the name of the value that a layer reads.

        Args:
            name: The layer's name among ``layer_outputs``.
            layer: Prefix of the names of the nodes made for it.
        """
        producers = {value: node for node in self._model.graph.node for value in node.output}
        value = self.layer_outputs[name]
        while value in producers and producers[value].name.startswith((f"{layer}.", name + OUTPUT)):
            value = producers[value].input[0]
        return value

    def feed(self, codes: Mapping[str, Tensor] | None = None) -> dict[str, np.ndarray]:
        """Returns ``codes``, by default torch's, as inputs of the forced model."""
        found = {}
        for quantizer, given in (self._codes if codes is None else codes).items():
            dtype = helper.tensor_dtype_to_np_dtype(self._nodes[quantizer].type)
            offset = self._offset(quantizer)
            stored = given if not offset else given.to(torch.int16) + offset
            found[quantizer + CODES] = stored.numpy().astype(dtype, copy=False)
        return found

    def read(self, quantizer: str, stored: np.ndarray) -> Tensor:
        """Converts codes that the file computes for a quantizer to torch's form."""
        codes, offset = torch.from_numpy(stored), self._offset(quantizer)
        return (codes if not offset else codes.to(torch.int16) - offset).to(self._codes[quantizer].dtype)

    def wrong_constants(self) -> dict[str, str]:
        """Describes the constants of each quantizer that differ from the graph's; "" if none do."""
        return {
            name: wrong_constants(quantizer, self._nodes[name], self._constants) for name, quantizer in self._quantizers.items()
        }

    def _offset(self, quantizer: str) -> int:
        return offset_of(self._quantizers[quantizer], self._nodes[quantizer])


def _expose_value(model: onnx.ModelProto, name: str, found: RoundingNode) -> None:
    """Adds an output for the values that a quantizer rounds, moved the same way as its codes."""
    value, nodes = _value_before(model, name, found)
    for index, move in enumerate(node for node in found.behind if node.op_type != "Clip"):
        copied = copy.deepcopy(move)
        copied.input[0], copied.output[0], copied.name = value, f"{name}.{index}", f"{name}.{index}.node"
        value = copied.output[0]
        nodes.append(copied)
    model.graph.node.extend([*nodes, helper.make_node("Identity", [value], [name])])
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


def _value_before(model: onnx.ModelProto, name: str, found: RoundingNode) -> tuple[str, list[onnx.NodeProto]]:
    """Returns the name of the float that is rounded, and operators to compute it if the file has none."""
    inputs = found.node.input
    if found.node.op_type == "QLinearMatMul":  # outputs codes directly
        factors = [f"{name}.{side}" for side in ("first", "second")]
        nodes = [helper.make_node("DequantizeLinear", inputs[i : i + 3], [factors[i // 3]]) for i in (0, 3)]
        return f"{name}.product", [*nodes, helper.make_node("MatMul", factors, [f"{name}.product"])]
    clip = next((node for node in model.graph.node if inputs[0] in node.output and node.op_type == "Clip"), None)
    own = clip is not None and clip.name.startswith(name.removesuffix(CODES + VALUE) + ".")
    return (clip.input[0] if clip is not None and own else inputs[0]), []


def _read(path: str | Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf and onnx raise several exception types
        raise VerifyError(f"cannot be read as ONNX: {next(iter(str(error).splitlines()), '')}", where=str(path)) from error
    del model.graph.value_info[:]
    return model
