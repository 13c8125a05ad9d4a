"""Helpers for torch.fx graphs. Only this module writes ``node.meta["qpass"]``, a node's plan."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TypeGuard

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.errors import PassError
from qpass.graph.facts import facts_of
from qpass.graph.signature.calls import bind_call, flatten_call, input_spec
from qpass.runtime.free_memory import TidyInterpreter, return_free_memory

aten = torch.ops.aten

#: End that torch.export writes for an open-ended slice.
END_OF_DIM = 2**63 - 1
#: Key of a node that computes few of its module's rows: dim, first row, their number, all rows.
KEPT_ROWS = "kept_rows"

#: RESHAPES keep all values and their order, TRANSPOSES reorder dims, COPIES do neither.
RESHAPES = (
    aten.reshape.default,
    aten.view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.dim,
    aten.unsqueeze.default,
)
TRANSPOSES = (aten.transpose.int, aten.permute.default, aten.mT.default)
COPIES = (aten.contiguous.default, aten.clone.default)
#: Operators with one input and one output tensor that move or repeat values without changing them.
MOVEMENT_OPS = (*TRANSPOSES, *RESHAPES, *COPIES, aten.expand.default, aten.repeat_interleave.self_int)


#: Module path prefix that torch.export gives to nodes without a module.
_NO_MODULE = "_empty_nn_module_stack"


def is_call(node: Any, *targets: Any) -> TypeGuard[fx.Node]:
    """Returns whether ``node`` calls one of these functions."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def calls(graph_module: fx.GraphModule, *targets: Any) -> Iterator[fx.Node]:
    """Yields the calls of these functions in execution order; the graph may change during iteration."""
    yield from [node for node in graph_module.graph.nodes if is_call(node, *targets)]


def input_node(node: fx.Node, index: int) -> fx.Node:
    """Returns the argument at ``index``, which must be a node."""
    found = node.args[index]
    assert isinstance(found, fx.Node), f"argument {index} of {node.name} is {found!r}"
    return found


def input_list(node: fx.Node, index: int) -> list[Any]:
    """Returns the argument at ``index``, which must be a list, such as sizes or dims."""
    found = node.args[index]
    assert isinstance(found, list | tuple), f"argument {index} of {node.name} is {found!r}"
    return list(found)


def is_inside(path: str, module: str) -> bool:
    """Returns whether a module path is ``module`` or lies inside it."""
    return path == module or path.startswith(module + ".")


def called_module(graph_module: fx.GraphModule, node: Any) -> nn.Module | None:
    """Returns the module that a node calls, or None if it calls none."""
    is_module = isinstance(node, fx.Node) and node.op == "call_module"
    return graph_module.get_submodule(str(node.target)) if is_module else None


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """Returns an argument, whether it was passed by position or by name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def fetch(graph_module: fx.GraphModule, target: str) -> Any:
    """Returns the tensor or module that a get_attr node with this target refers to."""
    return operator.attrgetter(target)(graph_module)


def ancestors(node: fx.Node) -> set[fx.Node]:
    """Returns all nodes that a node depends on."""
    found, waiting = set[fx.Node](), [node]
    while waiting:
        new = [source for source in waiting.pop().all_input_nodes if source not in found]
        found.update(new)
        waiting += new
    return found


def get_constant(graph_module: fx.GraphModule, node: Any) -> Tensor | None:
    """Returns the tensor that a get_attr node refers to, or None for any other node."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = fetch(graph_module, str(node.target))
    return value.detach() if isinstance(value, Tensor) else None


def device_of(model: nn.Module) -> torch.device:
    """Returns the device of a model's first tensor, or the CPU if it has none."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


def _free_name(graph_module: fx.GraphModule, wanted: str) -> str:
    """Returns ``wanted`` with invalid characters as underscores, numbered if the graph has that name."""
    name = base = re.sub(r"[^\w-]", "_", wanted, flags=re.ASCII)
    count = 0
    while hasattr(graph_module, name):
        count += 1
        name = f"{base}_{count}"
    return name


def add_module(graph_module: fx.GraphModule, wanted: str, module: nn.Module) -> str:
    """Registers a submodule under ``wanted`` (dots become underscores) or a similar free name.

    Moves the module to the graph's device and returns the name.
    """
    name = _free_name(graph_module, wanted)
    graph_module.add_module(name, module.to(device_of(graph_module)))
    return name


def add_constant(graph_module: fx.GraphModule, wanted: str, value: Tensor, before: fx.Node) -> fx.Node:
    """Registers a buffer and returns a get_attr node for it, inserted before ``before``."""
    name = _free_name(graph_module, wanted)
    graph_module.register_buffer(name, value.detach().clone().to(device_of(graph_module)))
    with graph_module.graph.inserting_before(before):
        node = graph_module.graph.get_attr(name)
    set_result(node, value)
    return node


def call_like(graph_module: fx.GraphModule, model: fx.Node, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
    """Inserts a call before ``model`` with its module path and source line; infers shape and dtype."""
    with graph_module.graph.inserting_before(model):
        node = graph_module.graph.call_function(target, args, kwargs)
    copy_origin(model, node)
    infer_result(node)
    return node


def set_result(node: fx.Node, result: Any) -> None:
    """Records a node's output on the example inputs: shape, dtype, and the output as meta tensors."""
    node.meta["result"] = pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), result)
    if isinstance(result, Tensor):
        node.meta["shape"], node.meta["dtype"] = tuple(result.shape), result.dtype


def infer_result(node: fx.Node) -> None:
    """Records a new call's output, inferred from its inputs' outputs if all of these are recorded."""
    if all("result" in source.meta for source in node.all_input_nodes):
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda source: source.meta["result"])
        with torch.no_grad():
            set_result(node, node.target(*args, **kwargs))  # type: ignore[operator]


def copy_result(source: fx.Node, target: fx.Node) -> None:
    """Copies what is recorded of the output of ``source`` to ``target``."""
    for key in ("shape", "dtype", "result", "val", KEPT_ROWS):
        if key in source.meta:
            target.meta[key] = source.meta[key]


def copy_origin(source: fx.Node, target: fx.Node) -> None:
    """Copies the module path and source line."""
    for key in ("nn_module_stack", "stack_trace"):
        if key in source.meta:
            target.meta[key] = source.meta[key]


def module_path(node: fx.Node) -> str:
    """Returns the path of the module whose forward made this node, or '' for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values() if not entry[0].startswith(_NO_MODULE)]
    return paths[-1].removeprefix("L['self'].") if paths else ""


def input_name(placeholder: fx.Node) -> str:
    """Returns an input's name in files: the model's own name.

    The node's name may differ: torch.fx reserves ``input`` and others.
    """
    return str(placeholder.target)


def describe(node: fx.Node) -> str:
    """Returns the module path and node name, for messages."""
    path = module_path(node)
    return f"{path} ({node.name})" if path else node.name


def shape_of(node: Any) -> tuple[int, ...] | None:
    """Returns the node's shape on the example inputs, or None if it has none."""
    return node.meta.get("shape") if isinstance(node, fx.Node) else None


def dtype_of(node: Any) -> torch.dtype | None:
    """Returns the node's dtype on the example inputs, or None if it has none."""
    return node.meta.get("dtype") if isinstance(node, fx.Node) else None


def is_open(node: fx.Node, dim: int) -> bool:
    """Returns whether a dim of a node's output may vary with the inputs; True if unknown."""
    value = node.meta.get("val")
    return not isinstance(value, Tensor) or not isinstance(value.shape[dim], int)


def replace(node: fx.Node, by: fx.Node) -> None:
    """Redirects all users of ``node`` to ``by`` and removes ``node``.

    Raises:
        PassError: If the known shapes or dtypes of the two differ: a bug in the calling pass.
    """
    for key in ("shape", "dtype"):
        old, new = node.meta.get(key), by.meta.get(key)
        if old is not None and new is not None and old != new:
            raise PassError(f"{describe(node)}: its replacement {by.name} has {key} {new}; expected {old}")
    if "val" in node.meta:
        by.meta.setdefault("val", node.meta["val"])
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)


def finish(graph_module: fx.GraphModule) -> None:
    """Removes dead nodes and unused tensors, lints the graph and regenerates its code."""
    graph_module.graph.eliminate_dead_code()
    _drop_unused(graph_module)
    graph_module.graph.lint()
    graph_module.recompile()


def _drop_unused(graph_module: fx.GraphModule) -> None:
    """Removes modules and tensors that no node refers to.

    Keeps everything inside a module that a node refers to, since regions hold regions.
    """
    used = {str(node.target) for node in graph_module.graph.nodes if node.op in ("get_attr", "call_module")}
    owners = {owner for name in used for owner in _owners(name)}
    gone: set[str] = set()
    for name, _ in [*graph_module.named_modules(), *graph_module.named_parameters(), *graph_module.named_buffers()]:
        if not name or name in used or name in owners or not used.isdisjoint(_owners(name)):
            continue
        if gone.isdisjoint(_owners(name)):
            owner, _, leaf = name.rpartition(".")
            delattr(graph_module.get_submodule(owner), leaf)
        gone.add(name)


def _owners(name: str) -> list[str]:
    """Returns the paths of the modules that enclose a name, outermost first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def set_plan(node: fx.Node, plan: Any) -> None:
    """Writes a node's plan."""
    node.meta["qpass"] = plan


def get_plan(node: fx.Node) -> Any:
    """Returns a node's plan, or None."""
    return node.meta.get("qpass")


class ShapeRecorder(TidyInterpreter):
    """Runs the graph once and records every node's output in ``node.meta``: see ``set_result``."""

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and records it."""
        result = super().run_node(n)
        if n.op != "output":
            set_result(n, result)
        return result


def record_shapes(graph_module: fx.GraphModule) -> None:
    """Records the outputs of all nodes on the graph's example inputs: see ``set_result``."""
    args, kwargs = example_inputs(graph_module)
    with torch.no_grad():
        ShapeRecorder(graph_module).run(*flat_inputs(graph_module, args, kwargs))
    return_free_memory()


def flat_inputs(graph_module: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Returns the inputs of ``fx.Interpreter.run`` for a call ``graph_module(*args, **kwargs)``.

    Raises:
        UnsupportedError: If they do not match the graph's inputs.
    """
    spec = input_spec(graph_module)
    return list(args) if spec is None else flatten_call(bind_call(graph_module, args, kwargs), spec)


def ordered_inputs(
    graph_module: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns a call's (args, kwargs), nested and ordered as when the graph was traced."""
    ordered = pytree.tree_unflatten(flat_inputs(graph_module, args, kwargs), input_spec(graph_module))
    return ordered  # type: ignore[no-any-return]


def copy_tensors(inputs: Any) -> Any:
    """Returns nested inputs with every tensor copied: a model may write into its inputs."""
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


def example_inputs(graph_module: fx.GraphModule) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns example inputs (args, kwargs) like those the graph was traced with."""
    example = facts_of(graph_module).example
    assert example is not None, "tracing keeps one"
    args, kwargs = example
    return args, dict(kwargs)
