"""GraphModule -> onnx_ir model in which every qpass module is one ``qpass::`` node, to be lowered."""

from __future__ import annotations

import copy
import re
import warnings
from functools import partial
from typing import Any

import onnx_ir as ir
import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.backends.onnx_qdq.exporter_steps import needed_steps
from qpass.backends.onnx_qdq.layer_outputs import layer_outputs, mark_layer_outputs
from qpass.backends.onnx_qdq.simplify import simplify
from qpass.errors import LoweringError
from qpass.graph.edit import aten, calls, dtype_of, example_inputs, input_name, shape_of
from qpass.graph.signature.input_check import without_input_check
from qpass.graph.signature.input_dims import dims_to_export
from qpass.graph.signature.outputs import keep_tensor_outputs, output_leaves, output_names
from qpass.nn import QuantizedLayer
from qpass.quantizers import Quantizer
from qpass.runtime.quiet import quiet_thread
from qpass.runtime.torch_modes import SHARED_STATE

#: Domain of the nodes that stand for qpass modules until they are lowered.
DOMAIN = "qpass"


class _Opaque(nn.Module):
    """Stand-in for a qpass module during export: becomes one node that names the module."""

    def __init__(self, path: str, inner: Quantizer | QuantizedLayer) -> None:
        super().__init__()
        self.path, self.kind = path, type(inner).__name__
        self.output_shape = inner.output_shape  # not the module: the exporter must not see its tensors

    def forward(self, x: Tensor) -> Tensor:
        shape, attributes = self.output_shape(x.shape), dict[str, Any](module=self.path)
        return torch.onnx.ops.symbolic(f"{DOMAIN}::{self.kind}", (x,), attributes, dtype=x.dtype, shape=shape, version=1)


def to_onnx(graph_module: fx.GraphModule, opset: int) -> ir.Model:
    """Exports a graph; a float graph has no ``qpass::`` nodes.

    Raises:
        LoweringError: If torch's exporter refuses the graph, or an input or output is complex.
    """
    _refuse_complex(graph_module)
    opaque = fx.GraphModule(copy.deepcopy(graph_module), copy.deepcopy(graph_module.graph))
    for path, module in list(opaque.named_modules()):
        if isinstance(module, (Quantizer, QuantizedLayer)) and "." not in path:
            setattr(opaque, path, _Opaque(path, module))
    mark_layer_outputs(opaque, layer_outputs(graph_module), DOMAIN)
    opaque.eval()
    without_input_check(opaque)
    keep_tensor_outputs(opaque)
    _drop_idle_squeezes(opaque)
    args, kwargs = example_inputs(graph_module)
    call = tuple(map(_constants_in_lists, args)), {name: _constants_in_lists(value) for name, value in kwargs.items()}
    try:
        with SHARED_STATE, warnings.catch_warnings(), quiet_thread(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = _translated(opaque, *call, dims_to_export(graph_module), opset)
            simplify(model)
    except Exception as error:  # the exporter and its rules raise many exception types
        raise _explain(graph_module, error) from error
    _name(graph_module, model)
    return model


def _translated(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any, opset: int) -> ir.Model:
    """Runs torch's exporter, with all its steps only if the needed ones do not suffice."""
    export = partial(
        torch.onnx.export,
        module,
        args,
        kwargs=kwargs,
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=shapes,
        verbose=False,
        optimize=False,
    )
    with needed_steps() as steps:
        try:
            program = export()
        except Exception:
            if steps.decomposed:
                raise
            program = None
    program = program or export()
    assert program is not None
    return program.model


def _constants_in_lists(value: Any) -> Any:
    """Turns tuples without tensors inside nested inputs into lists, which graphs take as well.

    torch's exporter takes the shapes of such a tuple, all None, for those of one tensor, as a list.
    """
    children, spec = pytree.tree_flatten(value, is_leaf=lambda node: node is not value)
    if spec.is_leaf():
        return value
    converted = list(map(_constants_in_lists, children))
    without_tensors = not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
    return converted if isinstance(value, tuple) and without_tensors else pytree.tree_unflatten(converted, spec)


def _refuse_complex(graph_module: fx.GraphModule) -> None:
    """Rejects complex inputs and outputs: torch's exporter makes them real, with another shape."""
    given = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    for kind, leaves in (("input", given), ("output", output_leaves(graph_module))):
        for leaf in leaves:
            dtype = dtype_of(leaf) if isinstance(leaf, fx.Node) else None
            if dtype is not None and dtype.is_complex:
                raise LoweringError(
                    f"an {kind} of complex numbers",
                    where=f"{type(graph_module).__name__}, {leaf.name}",
                    expected="real numbers: onnxruntime has no others",
                    hint="pass torch.view_as_real of it, and take torch.view_as_complex inside"
                    if kind == "input"
                    else "return torch.view_as_real of it",
                )


def _drop_idle_squeezes(graph_module: fx.GraphModule) -> None:
    """Drops ``squeeze(dim)`` of dims other than 1, such as a fixed batch: ONNX rejects them."""
    for node in calls(graph_module, aten.squeeze.dim):
        shape, dim = shape_of(node.args[0]), node.args[1]
        if shape and shape[dim] != 1:  # type: ignore[index]
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph_module.graph.erase_node(node)
    graph_module.recompile()


def _explain(graph_module: fx.GraphModule, error: Exception) -> LoweringError:
    """Explains why the exporter rejects a graph, and at which operator.

    The exporter's message begins with advice for its developers. Its summary lists the exceptions,
    innermost first.
    """
    lines = [line.strip() for line in str(error).partition("## Exception summary")[2].splitlines() or str(error).splitlines()]
    reason = next((line.partition(">: ")[2] or line for line in lines if line), type(error).__name__)
    found = re.search(r"(?:Error when translating node|While executing %) ?.*?target=torch\.ops\.([\w.]+)", str(error))
    where = type(graph_module).__name__
    return LoweringError(
        f"torch.onnx cannot export the graph: {reason[:300]}",
        where=f"{where}, {found[1]}" if found else where,
        hint="write it with operators that ONNX has, or leave it outside of the model",
    )


def _name(graph_module: fx.GraphModule, model: ir.Model) -> None:
    """Names inputs as in the graph, and outputs after the keys of a dict output."""
    inputs, outputs = model.graph.inputs, model.graph.outputs
    tensors = [
        input_name(node) for node in graph_module.graph.nodes if node.op == "placeholder" and node.meta.get("shape") is not None
    ]
    names = [*tensors, *(f"{name}_out" if name in tensors else name for name in output_names(graph_module))]
    inner = [value for node in model.graph for value in node.outputs] + list(model.graph.initializers.values())
    for index, value in enumerate(value for value in (*inner, *inputs, *outputs) if value.name in names):
        value.name = f"{value.name}_inner_{index}"
    for value, name in zip((*inputs, *outputs), names, strict=True):
        value.name = name
