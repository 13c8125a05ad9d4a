"""A node at the start of a graph that refuses inputs for which the graph is not valid.

It is a node, not a hook: copies, files and torch.fx transformations keep it. It takes every input
and returns nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.data.structure import same_constant
from qpass.errors import DataError, UnsupportedError
from qpass.graph.edit import example_inputs, flat_inputs, input_name
from qpass.graph.facts import facts_of
from qpass.graph.signature.calls import CheckedCodeGen
from qpass.graph.signature.input_dims import split_multiple

Sizes = Sequence[Sequence[Sequence[int]]]


def check_inputs(inputs: Sequence[Any], expected: Sequence[Any], held: Sizes, model: str) -> None:
    """Refuses inputs whose sizes, kinds or values a graph is not valid for.

    Args:
        inputs: All inputs, flat.
        expected: Name and kind of each input, and the sizes of a tensor (see
            ``qpass.graph.signature.input_dims``) or the value of a constant.
        held: Combinations of the sizes after dim 0 of all tensors that the graph accepts; empty for
            all that ``expected`` allows.
        model: Name of the graph.

    Raises:
        UnsupportedError: If an input does not fit. Names the input, and what the graph accepts.
    """
    proxy = next((value for value in inputs if isinstance(value, fx.Proxy)), None)
    if proxy is not None:  # torch.fx is retracing the graph
        proxy.tracer.create_proxy("call_function", check_inputs, (tuple(inputs), expected, held, model), {})
        return
    symbols: dict[str, tuple[str, int]] = {}
    for value, (name, kind, wanted) in zip(inputs, expected, strict=True):
        if kind == "constant":
            _check_constant(value, wanted, name, model)
        elif kind != "any":
            _check_tensor(value, kind, wanted, name, model, symbols)
    sizes = [list(value.shape[1:]) for value in inputs if isinstance(value, Tensor)]
    if held and sizes not in [[list(size) for size in one] for one in held]:
        raise _refusal(f"got {sizes_text(sizes)}", model, " or ".join(sorted(map(sizes_text, held))))


fx.node.has_side_effect(check_inputs)


def check_arguments(graph_module: fx.GraphModule) -> tuple[tuple[Any, ...], tuple[Any, ...], str]:
    """Returns the arguments of ``check_inputs`` other than the inputs, from the graph's facts."""
    facts = facts_of(graph_module)
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    leaves = flat_inputs(graph_module, *example_inputs(graph_module))
    tensors, expected = iter(zip(facts.names, facts.dims, strict=True)), list[tuple[str, str, Any]]()
    for node, leaf in zip(placeholders, leaves, strict=True):
        if isinstance(leaf, Tensor):
            name, dims = next(tensors)
            expected.append((name, _kind(leaf), tuple(dims)))
        else:
            free = node.name in facts.free
            expected.append((node.name, "any" if free else "constant", None if free else leaf))
    return tuple(expected), tuple(facts.sizes), type(graph_module).__name__


def add_input_check(graph_module: fx.GraphModule) -> None:
    """Inserts the check at the start of a graph, as its facts require."""
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    with graph_module.graph.inserting_after(placeholders[-1]):
        graph_module.graph.call_function(check_inputs, (tuple(placeholders), *check_arguments(graph_module)))
    codegen = graph_module.graph._codegen
    if hasattr(codegen, "pytree_info"):
        graph_module.graph.set_codegen(CheckedCodeGen(codegen.pytree_info))
    graph_module.recompile()


def check_is_as_added(graph_module: fx.GraphModule) -> None:
    """Refuses a graph whose input check is not the one that ``add_input_check`` inserts.

    Raises:
        DataError: If there is not exactly one check, or it expects other inputs.
    """
    found = [node for node in graph_module.graph.nodes if node.target is check_inputs]
    inputs = tuple(node for node in graph_module.graph.nodes if node.op == "placeholder")
    if len(found) != 1 or found[0].kwargs or found[0].args != (inputs, *check_arguments(graph_module)):
        raise DataError("checks other inputs than the graph has", where="nodes", expected="the check of its own inputs")


def check_example(graph_module: fx.GraphModule) -> None:
    """Refuses a graph that does not accept its own example inputs or their names, used by exports.

    Raises:
        DataError: If it does not. Names the input.
    """
    facts, leaves = facts_of(graph_module), flat_inputs(graph_module, *example_inputs(graph_module))
    try:
        check_inputs(leaves, *check_arguments(graph_module))
    except UnsupportedError as error:
        raise DataError(error.what, where="example", expected=error.expected) from error
    if len(set(facts.names)) != len(facts.names):
        raise DataError("has a name twice", where="facts.names", expected="names that differ")
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if any(leaf.numel() == 0 and 0 not in dims for leaf, dims in zip(tensors, facts.dims, strict=True)):
        raise DataError("has no rows", where="example", expected="at least one of every open size")
    placeholders = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    for node, leaf in zip(placeholders, leaves, strict=True):
        shape = node.meta.get("shape")
        if isinstance(leaf, Tensor) != isinstance(shape, list | tuple) or (
            isinstance(leaf, Tensor) and len(shape) != leaf.dim()
        ):
            raise DataError(f"has the shape {str(shape)[:60]}", where=node.name, expected="the dims of the example input")


def named_inputs(graph_module: fx.GraphModule, call: ModelInputs) -> ModelInputs:
    """Checks a call as the graph itself does, and returns its inputs by their names in files.

    Raises:
        UnsupportedError: If an input does not fit. Names the input, and what the graph accepts.
    """
    leaves = flat_inputs(graph_module, *call)
    for node in graph_module.graph.nodes:
        if node.target is check_inputs:
            check_inputs(leaves, *node.args[1:])
    names = [input_name(node) for node in graph_module.graph.nodes if node.op == "placeholder"]
    return ModelInputs((), dict(zip(names, leaves, strict=True)))


def without_input_check(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Removes the check from a graph, in place: exporters do their own checks."""
    for node in list(graph_module.graph.nodes):
        if node.target is check_inputs:
            graph_module.graph.erase_node(node)
    graph_module.recompile()
    return graph_module


def _check_constant(value: Any, wanted: Any, name: str, model: str) -> None:
    if isinstance(value, Tensor) or not same_constant(value, wanted):
        shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        expected = f"{wanted!r}: it was a constant when the model was traced"
        hint = "give it that value, or quantize once for each; a number may also be calibrated as a tensor"
        raise UnsupportedError(f"{name} is {shown}", where=model, expected=expected, hint=hint)


def _check_tensor(
    value: Any, kind: str, wanted: Sequence[Any], name: str, model: str, symbols: dict[str, tuple[str, int]]
) -> None:
    if not isinstance(value, Tensor) or _kind(value) != kind:
        shown = f"a {type(value).__name__}" if not isinstance(value, Tensor) else f"a tensor of {value.dtype}"
        wanted_type = "float32" if kind == "float" else kind
        hint = (
            f"pass {name}.to(torch.{wanted_type})"
            if isinstance(value, Tensor) and wanted_type.startswith(("float", "bfloat"))
            else ""
        )
        raise UnsupportedError(f"{name} is {shown}", where=model, expected=f"a tensor of {wanted_type} values", hint=hint)
    if value.is_meta or value.layout is not torch.strided:
        shown = "meta tensor" if value.is_meta else f"tensor of layout {value.layout}"
        raise UnsupportedError(f"{name} is a {shown}", where=model, expected="a dense tensor with values")
    shape = tuple(value.shape)
    expected = f"({', '.join(map(str, wanted))})"
    if len(shape) != len(wanted):
        raise _refusal(f"got {name} {shape}", model, expected)
    for size, dim in zip(shape, wanted, strict=True):
        if isinstance(dim, int) and size != dim:
            raise _refusal(f"got {name} {shape}", model, expected)
        if isinstance(dim, str):
            factor, symbol = split_multiple(dim)
            first, count = symbols.setdefault(symbol, (name, size // factor))
            if size != count * factor:
                more = f", with {symbol} {count} as in {first}" if first != name else ""
                raise _refusal(f"got {name} {shape}", model, expected + more)


def _refusal(what: str, model: str, expected: str) -> UnsupportedError:
    hint = "resize, pad or cut the inputs to such a size, or quantize from inputs that are like these"
    return UnsupportedError(what, where=model, expected=expected, hint=hint)


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "float" if tensor.dtype is torch.float32 else str(tensor.dtype).removeprefix("torch.")
    return "bool" if tensor.dtype is torch.bool else "complex" if tensor.is_complex() else "integer"


def sizes_text(sizes: Sequence[Sequence[int]]) -> str:
    """Returns the sizes after dim 0 of some tensors as text, for messages."""
    return ", ".join("(batch, " + ", ".join(map(str, size)) + ")" for size in sizes)
