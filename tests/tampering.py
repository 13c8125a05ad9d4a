"""Files with one initializer changed, in every way that a wrong exporter or a damaged file could have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.graph.edit import flat_inputs
from qpass.nn import QuantizedLayer

#: The one change that no input can tell: a table of runs of codes gets one more row at its end, which no index reaches.
NO_CHANGE = ("runs.", ".end")
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_CODES = (TensorProto.INT4, TensorProto.INT8, TensorProto.UINT8, TensorProto.UINT16)


@dataclass(frozen=True)
class Tampering:
    """One changed file.

    Attributes:
        name: The initializer.
        what: What was done to it.
        model: The file.
    """

    name: str
    what: str
    model: onnx.ModelProto


def tamperings(path: Path, graph: fx.GraphModule, inputs: ModelInputs) -> Iterator[Tampering]:
    """Yields every change of every initializer.

    Args:
        path: What was exported from ``graph``.
        graph: A quantized graph.
        inputs: What the spread of its layers' outputs is measured on.
    """
    original = onnx.load(path)
    spreads = layer_spreads(graph, inputs)
    tensors = list(original.graph.initializer)
    compared = {name for node in original.graph.node if node.op_type in ("Greater", "Less") for name in node.input}
    for place, tensor in enumerate(tensors):
        for what, changed in _thresholds(tensor) if tensor.name in compared else changes(tensor, spreads):
            yield Tampering(tensor.name, what, with_initializer(original, place, changed))
        other = next((t for t in tensors[place + 1 :] if _alike(tensor, t)), None)
        if other is not None:
            swapped = with_initializer(original, place, _renamed(other, tensor.name))
            second = swapped.graph.initializer[tensors.index(other)]
            second.CopyFrom(_renamed(tensor, other.name))
            yield Tampering(tensor.name, f"swapped with {other.name}", swapped)


def changes(tensor: onnx.TensorProto, spreads: Mapping[str, float]) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yields what one initializer may become."""
    array = numpy_helper.to_array(tensor)
    owner, _, role = tensor.name.partition(".")
    if tensor.data_type == TensorProto.FLOAT:
        if "log" in role and "step" not in role:
            yield "the scale that it is the logarithm of is 0.2 % greater", _like(tensor, array + np.float32(0.002))
        elif "bias" in role or "bias" in tensor.name.rpartition("_")[2]:
            yield "moved by 1 % of its layer's spread", _moved(tensor, 0.01 * spreads.get(owner, float(array.std()) or 1.0))
            if array.any():
                yield "dropped", _like(tensor, np.zeros_like(array))
        elif "zero_point" in role:  # of weights that are multiplied in float
            yield "one zero point by one", _moved(tensor, 1.0)
        elif not np.isfinite(array).all():
            yield "finite", _like(tensor, np.nan_to_num(array))
        elif array.size == 1 or "scale" in role:
            yield "0.2 % greater", _like(tensor, array * np.float32(1.002))
            yield "one is 0.2 % less", _scaled(tensor, 0.998)
        else:
            yield "one is moved by 1 % of the spread", _moved(tensor, 0.01 * max(float(array.std()), 0.1))
    elif tensor.data_type in _CODES:
        yield "one code by one", _one_code(tensor)
    elif tensor.data_type in _INTEGERS:
        yield "one number by one", _like(tensor, _next_number(array))


def _thresholds(tensor: onnx.TensorProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """A threshold that is moved between the same two values of a batch changes nothing there."""
    yield "a threshold moved by 0.1", _like(tensor, numpy_helper.to_array(tensor) + 0.1)


def _next_number(array: np.ndarray) -> np.ndarray:
    """Changes the first number: one that stands for "whatever is left" becomes 7, and one for "to the end" becomes 1."""
    changed = array.copy()
    first = int(array.reshape(-1)[0])
    changed.reshape(-1)[0] = 7 if first == -1 else 1 if first > 2**31 else first + 1
    return changed


def _one_code(tensor: onnx.TensorProto) -> onnx.TensorProto:
    array = numpy_helper.to_array(tensor)
    flat = array.astype(np.int32).reshape(-1)
    least, greatest = (
        (-8, 7) if tensor.data_type == TensorProto.INT4 else (np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
    )
    flat[0] += 1 if flat[0] < greatest else -1
    assert least <= flat[0] <= greatest
    return onnx.helper.make_tensor(tensor.name, tensor.data_type, list(tensor.dims), flat)


def _moved(tensor: onnx.TensorProto, step: float) -> onnx.TensorProto:
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[array.size // 2] += step
    return _like(tensor, array)


def _scaled(tensor: onnx.TensorProto, factor: float) -> onnx.TensorProto:
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[array.size // 2] *= np.float32(factor)
    return _like(tensor, array)


def _like(tensor: onnx.TensorProto, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array.astype(numpy_helper.to_array(tensor).dtype), tensor.name)


def _renamed(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    renamed = onnx.TensorProto()
    renamed.CopyFrom(tensor)
    renamed.name = name
    return renamed


def _alike(a: onnx.TensorProto, b: onnx.TensorProto) -> bool:
    """Tells whether two initializers can be taken for each other, and are not the same."""
    same_kind = a.data_type == b.data_type and list(a.dims) == list(b.dims) and a.data_type not in _INTEGERS
    return same_kind and not np.array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


def with_initializer(model: onnx.ModelProto, place: int, tensor: onnx.TensorProto) -> onnx.ModelProto:
    """Returns a copy of a model with one initializer replaced."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.initializer[place].CopyFrom(tensor)
    return changed


def layer_spreads(graph: fx.GraphModule, inputs: ModelInputs) -> dict[str, float]:
    """Returns the standard deviation of the output of every quantized layer, by the layer's name."""
    found: dict[str, float] = {}

    class Recorder(fx.Interpreter):
        def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
            result = super().call_module(target, args, kwargs)
            if isinstance(self.fetch_attr(str(target)), QuantizedLayer) and isinstance(result, Tensor):
                found[str(target)] = float(result.std())
            return result

    with torch.no_grad():
        Recorder(graph).run(*flat_inputs(graph, *inputs))
    return found
