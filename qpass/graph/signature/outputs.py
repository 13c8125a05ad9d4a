"""The outputs of a graph: which are tensors, and what the others are."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx

from qpass.graph.edit import aten, input_name

#: Operators on tensors that return a number.
_TO_NUMBER = (
    aten.sym_size.int,
    aten.sym_numel.default,
    aten.sym_stride.int,
    aten.item.default,
    aten._local_scalar_dense.default,
)


def output_leaves(graph_module: fx.GraphModule) -> list[Any]:
    """Returns the flat outputs: nodes and constants."""
    node = next(node for node in graph_module.graph.nodes if node.op == "output")
    return pytree.tree_leaves(node.args[0])


def output_spec(graph_module: fx.GraphModule) -> Any:
    """Returns the pytree spec of the outputs, or None for a single output."""
    codegen = graph_module.graph._codegen
    return codegen.pytree_info.out_spec if hasattr(codegen, "pytree_info") else None


def is_tensor_output(leaf: Any) -> bool:
    """Returns whether an output is a tensor, rather than a number or a constant."""
    return isinstance(leaf, fx.Node) and not _gives_number(leaf)


def value_of(leaf: Any, inputs: Mapping[str, Any]) -> Any:
    """Returns the value of a non-tensor output.

    Args:
        leaf: A constant, or a node that returns a number.
        inputs: Values of the placeholders, by name.
    """
    if not isinstance(leaf, fx.Node):
        return leaf
    if leaf.op == "placeholder":
        return inputs[input_name(leaf)]
    assert callable(leaf.target)
    args, kwargs = torch.fx.map_arg((leaf.args, leaf.kwargs), lambda node: value_of(node, inputs))  # type: ignore[arg-type]
    return leaf.target(*args, **kwargs)


def keep_tensor_outputs(graph_module: fx.GraphModule) -> None:
    """Reduces a graph's outputs to the tensors, as a flat tuple, in place."""
    node = next(node for node in graph_module.graph.nodes if node.op == "output")
    kept = tuple(leaf for leaf in output_leaves(graph_module) if is_tensor_output(leaf))
    node.args = (kept,)
    codegen = graph_module.graph._codegen
    if hasattr(codegen, "pytree_info"):
        codegen.pytree_info = codegen.pytree_info._replace(out_spec=pytree.tree_flatten(kept)[1])
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()


def output_names(graph_module: fx.GraphModule) -> list[str]:
    """Returns a name for each output tensor: dict keys, else ``output``, or ``output_0``, ``output_1``...

    Several tensors under one key are counted: ``hidden_states_0``, ``hidden_states_1``.
    """
    leaves, spec = output_leaves(graph_module), output_spec(graph_module)
    kept = [index for index, leaf in enumerate(leaves) if is_tensor_output(leaf)]
    if spec is not None and isinstance(spec.context, (list, tuple)) and spec.type is not tuple and spec.num_children:
        keys: Sequence[Any] = spec.context[0] if spec.context and isinstance(spec.context[0], (list, tuple)) else spec.context
        owners = [str(key) for key, child in zip(keys, spec.children(), strict=False) for _ in range(child.num_leaves)]
        if len(keys) == spec.num_children:
            found = [owners[index] for index in kept]
            names = [f"{name}_{found[:i].count(name)}" if found.count(name) > 1 else name for i, name in enumerate(found)]
            if len(set(names)) == len(names):
                return names
    return [f"output_{index}" for index in range(len(kept))] if len(kept) > 1 else ["output"]


def _gives_number(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    module = getattr(node.target, "__module__", "")
    return (
        node.target in _TO_NUMBER or module in ("_operator", "math") or getattr(node.target, "__name__", "").startswith("sym_")
    )
