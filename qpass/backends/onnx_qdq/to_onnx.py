"""GraphModule -> onnx_ir model in which every qpass module is one ``qpass::`` node, to be lowered afterwards."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from qpass.backends.onnx_qdq.simplify import simplify
from qpass.errors import LoweringError
from qpass.graph import example_inputs, info
from qpass.nn import QuantizedLayer
from qpass.quantizers import Quantizer
from qpass.trace import dynamic_shapes

#: Domain of the nodes that stand for qpass modules until they are lowered.
DOMAIN = "qpass"


class _Opaque(nn.Module):
    """Stands for a qpass module while exporting: one node that names it."""

    def __init__(self, path: str, inner: Quantizer | QuantizedLayer) -> None:
        super().__init__()
        self.path, self.kind = path, type(inner).__name__
        self.output_shape = inner.output_shape  # not the module: its tensors are none of the exporter's business

    def forward(self, x: Tensor) -> Tensor:
        shape, attributes = self.output_shape(x.shape), dict[str, Any](module=self.path)
        return torch.onnx.ops.symbolic(f"{DOMAIN}::{self.kind}", (x,), attributes, dtype=x.dtype, shape=shape, version=1)


def to_onnx(graph_module: fx.GraphModule, opset: int) -> ir.Model:
    """Exports a graph; a float graph has no ``qpass::`` nodes.

    Raises:
        LoweringError: If torch's exporter refuses the graph.
    """
    opaque = fx.GraphModule(copy.deepcopy(graph_module), copy.deepcopy(graph_module.graph))
    for path, module in list(opaque.named_modules()):
        if isinstance(module, (Quantizer, QuantizedLayer)) and "." not in path:
            setattr(opaque, path, _Opaque(path, module))
    opaque.eval()
    args, kwargs = example_inputs(graph_module)
    open_sizes = info(graph_module).get("open_sizes", ())
    shapes = dynamic_shapes(opaque, args, kwargs, open_sizes) if info(graph_module)["dynamic_batch"] else None
    try:
        with warnings.catch_warnings(), _quiet(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                opaque,
                args,
                kwargs=kwargs,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                verbose=False,
                optimize=False,
            )
            assert program is not None
            model: ir.Model = program.model
            simplify(model)
    except Exception as error:  # the exporter and its rules raise many kinds
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise LoweringError(f"torch.onnx cannot export the graph: {text[:300]}", where=type(graph_module).__name__) from error
    _name_outputs(graph_module, model)
    return model


def _name_outputs(graph_module: fx.GraphModule, model: ir.Model) -> None:
    """Names outputs after the keys of a dict output, else ``output`` or ``output_0``, ``output_1``, ..."""
    outputs = model.graph.outputs
    names = [f"output_{i}" for i in range(len(outputs))] if len(outputs) > 1 else ["output"]
    codegen = graph_module.graph._codegen
    spec = codegen.pytree_info.out_spec if hasattr(codegen, "pytree_info") else None
    if spec is not None and isinstance(spec.context, (list, tuple)) and spec.type is not tuple and spec.num_children:
        keys = spec.context[0] if spec.context and isinstance(spec.context[0], (list, tuple)) else spec.context
        keys = [str(key) for key in keys]
        if len(keys) == len(outputs):
            names = keys
    taken = {value.name for value in model.graph.inputs}
    for value, name in zip(outputs, names, strict=True):
        value.name = f"{name}_out" if name in taken else name


class _quiet:
    """Keeps the exporter's log lines and prints off the terminal."""

    def __enter__(self) -> None:
        self._loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
