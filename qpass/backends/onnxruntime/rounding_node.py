"""Finds the operators of a file that compute a quantizer's codes, their inputs and constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from qpass.backends.onnx_qdq.lowerings import CODES, stored_table
from qpass.backends.onnx_qdq.rules.patterns import MOVEMENTS
from qpass.backends.onnx_qdq.weights import UINT8_OFFSET
from qpass.backends.onnxruntime.rounded import rounding_of
from qpass.errors import VerifyError
from qpass.quantizers import Quantizer

#: What errors name as expected for a file that does not belong to the graph.
EXPECTED_FILE = "the file that export_onnx wrote from this graph"
#: Indices of a rounding operator's inputs that are the scale and the zero point of the codes.
_PARAMETERS = {"QuantizeLinear": (1, 2), "QLinearMatMul": (6, 7)}


@dataclass(frozen=True)
class RoundingNode:
    """The operators that compute one quantizer's codes.

    Attributes:
        node: A QuantizeLinear or a QLinearMatMul.
        behind: Operators that clip and move its codes, in order.
        type: ONNX type of the codes.
        table: Name of the table that its codes are looked up in; "" if there is none.
    """

    node: onnx.NodeProto
    behind: tuple[onnx.NodeProto, ...]
    type: int
    table: str = ""


class FileConstants:
    """The constants of a file by name, including external data."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._tensors, self._folder = {tensor.name: tensor for tensor in model.graph.initializer}, str(folder)

    def type_of(self, name: str) -> int | None:
        """Returns the ONNX type of a constant, or None if there is no constant of that name."""
        return int(self._tensors[name].data_type) if name in self._tensors else None

    def number(self, name: str) -> float | None:
        """Returns the number in a one-element constant, or None."""
        tensor = self._tensors.get(name)
        if tensor is None or int(np.prod(tensor.dims)) != 1:
            return None
        return float(numpy_helper.to_array(tensor, self._folder).item())

    def array(self, name: str) -> np.ndarray | None:
        """Returns a constant, or None if there is no constant of that name."""
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor, self._folder)


def rounding_nodes(model: onnx.ModelProto, constants: FileConstants, quantizers: Iterable[str]) -> dict[str, RoundingNode]:
    """Returns the operators that compute the codes of each quantizer.

    Raises:
        VerifyError: If the file lacks a quantizer, or has an extra one.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
    known = {quantizer + CODES: quantizer for quantizer in quantizers}
    found = {
        quantizer: replace(_rounding_node(name, producers, constants), table=_table(name, readers))
        for name, quantizer in known.items()
    }
    for name in producers:
        if name.endswith(CODES) and name not in known:
            raise VerifyError(
                "the file quantizes here and the graph does not",
                where=name.removesuffix(CODES),
                expected=EXPECTED_FILE,
            )
    return found


def _rounding_node(name: str, producers: Mapping[str, onnx.NodeProto], constants: FileConstants) -> RoundingNode:
    behind: list[onnx.NodeProto] = []
    node = producers.get(name)
    while node is not None and node.op_type not in _PARAMETERS:
        behind.insert(0, node)
        node = producers.get(node.input[0]) if node.input else None
    inputs = [] if node is None else node.input
    at = None if node is None else _PARAMETERS[node.op_type][1]
    kind = constants.type_of(inputs[at]) if at is not None and len(inputs) > at else None
    if node is None or kind not in (TensorProto.INT8, TensorProto.UINT8):
        raise VerifyError(
            "the file holds no codes of this quantizer",
            where=name.removesuffix(CODES),
            expected=EXPECTED_FILE,
        )
    return RoundingNode(node, tuple(behind), kind)


def _table(codes: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> str:
    """Returns the name of the table that codes are looked up in, perhaps moved before; "" if none."""
    waiting = [codes]
    while waiting:
        name = waiting.pop()
        for node in readers.get(name, ()):
            if node.op_type == "GatherElements" and node.input[1] == name:
                return str(node.input[0])
            if node.op_type in ("Cast", *MOVEMENTS):
                waiting.append(node.output[0])
    return ""


def offset_of(quantizer: Quantizer, found: RoundingNode) -> int:
    """Returns the file's codes minus torch's: int8 may be stored as uint8."""
    return UINT8_OFFSET if quantizer.signed and found.type == TensorProto.UINT8 else 0


def wrong_constants(quantizer: Quantizer, found: RoundingNode, constants: FileConstants) -> str:
    """Describes the constants of a quantizer that differ from the graph's; "" if none do.

    Constants are compared directly: a scale that is slightly off changes few codes, and a bound or an
    entry of a table that no code of a batch reaches changes none.
    """
    return ", ".join(filter(None, [_wrong_numbers(quantizer, found, constants), _wrong_table(quantizer, found, constants)]))


def _wrong_numbers(quantizer: Quantizer, found: RoundingNode, constants: FileConstants) -> str:
    rounding = rounding_of(quantizer)
    if rounding is None:
        return ""
    scale_at, zero_at = _PARAMETERS[found.node.op_type]
    offset = offset_of(quantizer, found)
    expected: list[tuple[str, str, float]] = [
        ("scale", found.node.input[scale_at], float(rounding.step)),
        ("zero point", found.node.input[zero_at], rounding.zero_point + offset),
    ]
    for clip in (node for node in found.behind if node.op_type == "Clip"):
        bounds = (quantizer.code_min + offset, quantizer.code_max + offset)
        expected += zip(("least code", "greatest code"), clip.input[1:3], bounds, strict=True)
    wrong = [
        f"{what} {number} in the file and {value:.9g} in the graph"
        for what, name, value in expected
        if (number := constants.number(name)) is None or number != value
    ]
    return ", ".join(wrong)


def _wrong_table(quantizer: Quantizer, found: RoundingNode, constants: FileConstants) -> str:
    expected = stored_table(quantizer)
    if expected is None:
        return ""
    table = constants.array(found.table)
    if table is None or table.shape != expected.shape:
        return "the file does not hold its table"
    if table.dtype == np.uint8 and expected.dtype == np.int8:
        expected = expected.astype(np.int16) + UINT8_OFFSET
    places = np.flatnonzero(table != expected)
    return f"entry {places[0]} of its table is {table[places[0]]} and {expected[places[0]]} in the graph" if len(places) else ""
