"""The sizes of a graph's inputs: which are fixed, which are open, and which must be equal.

A table has an entry for each input tensor, in flattened order. The entry holds, for each dim, a
size, the name of a symbol (``"batch"``), or a multiple of one (``"4*tokens"``).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.export import Dim

from qpass.data import ModelInputs
from qpass.data.rows import Layout, has_own_rows
from qpass.errors import ConfigError, nearest
from qpass.graph.edit import example_inputs
from qpass.graph.facts import facts_of, update_facts

Dims = list[tuple[int | str, ...]]
#: Types that mark a dim as open.
_OPEN = (Dim, type(Dim.AUTO))
_MULTIPLE = re.compile(r"(\d+)\*(\w+)")


def layout_of(graph_module: fx.GraphModule) -> Layout:
    """Returns the symbol of dim 0 for each input tensor, or None where it is fixed."""
    facts = facts_of(graph_module)
    if facts.layout is not None:
        return facts.layout
    return [dims[0] if dims and isinstance(dims[0], str) else None for dims in facts.dims]


def takes_any_rows(graph_module: fx.GraphModule) -> bool:
    """Returns whether batches can be split and joined: a dynamic batch, and no input with its own rows."""
    return facts_of(graph_module).dynamic_batch and not has_own_rows(layout_of(graph_module))


def tie_rows(graph_module: fx.GraphModule, counts: Sequence[Sequence[int]]) -> None:
    """Ties inputs to the batch if they have as many rows in every call: calibration splits them with it.

    Args:
        graph_module: The graph, whose layout is updated: see ``layout_of``.
        counts: For each call, the size of dim 0 of each tensor.
    """
    layout = layout_of(graph_module)
    first = next((index for index, symbol in enumerate(layout or ()) if symbol), None)
    if layout is not None and first is not None:
        columns = list(zip(*counts, strict=True))
        tied = [layout[first] if symbol and columns[index] == columns[first] else symbol for index, symbol in enumerate(layout)]
        update_facts(graph_module, layout=tied)


def split_multiple(dim: str) -> tuple[int, str]:
    """Returns the factor and the symbol of a dim in a table."""
    found = _MULTIPLE.fullmatch(dim)
    return (int(found[1]), found[2]) if found else (1, dim)


def given_dims(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> list[dict[int, Any] | None]:
    """Returns the dims that ``dynamic_shapes`` opens in each tensor of a call, or None if not mentioned.

    Raises:
        ConfigError: If it names inputs that the call does not have, or its nesting differs from theirs.
    """
    arguments = dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    extra = next((p.name for p in inspect.signature(model.forward).parameters.values() if p.kind is p.VAR_KEYWORD), None)
    if isinstance(dynamic_shapes, (tuple, list)):
        dynamic_shapes = dict(zip(arguments, dynamic_shapes, strict=False))
    if not isinstance(dynamic_shapes or {}, Mapping):
        raise ConfigError(
            f"got a {type(dynamic_shapes).__name__}", where="dynamic_shapes", expected="a mapping of inputs to their dims"
        )
    shapes = dict(dynamic_shapes or {})
    if extra in arguments:  # inputs passed by **kwargs are listed beside the others
        own = {name: shapes.pop(name) for name in list(shapes) if name in arguments[extra] and name not in arguments}
        shapes[extra] = {**own, **(shapes.get(extra) or {})}
    for name in shapes:
        if name not in arguments:
            raise ConfigError(f"no input {name!r}", where="dynamic_shapes", hint=nearest(str(name), arguments))
    found = {id(leaf): dims for name, value in arguments.items() for leaf, dims in _given(value, shapes.get(name), name)}
    return [found[id(leaf)] for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]


def larger_dims(given: Sequence[dict[int, Any] | None]) -> set[str]:
    """Returns the names of the dims that the caller declares larger than 1."""
    dims = [dim for own in given for dim in (own or {}).values()]
    return {dim.__name__ for dim in dims if isinstance(getattr(dim, "min", None), int) and dim.min > 1}


def dims_left_open(model: nn.Module, batch: ModelInputs, *, dynamic_shapes: Any) -> list[list[int]]:
    """Returns, for each tensor of a call, the dims that ``dynamic_shapes`` opens."""
    return [list(dims or ()) for dims in given_dims(model, *batch, dynamic_shapes)]


def _given(value: Any, shape: Any, where: str) -> list[tuple[Tensor, dict[int, Any] | None]]:
    if isinstance(value, Tensor):
        return [(value, None if shape is None else _dims_of(value, shape, where))]
    leaves, spec = pytree.tree_flatten(value, is_leaf=lambda node: node is not value)
    if spec.is_leaf():
        return []
    children = list(shape.values()) if isinstance(shape, Mapping) and isinstance(value, Mapping) else shape
    if isinstance(shape, Mapping) and isinstance(value, Mapping):
        children = [shape.get(key) for key in value]
    if children is not None and (not isinstance(children, (list, tuple)) or len(children) != len(leaves)):
        raise ConfigError(
            f"got {shape!r}", where=f"dynamic_shapes, {where}", expected=f"{len(leaves)} entries, as the input has"
        )
    children = [None] * len(leaves) if children is None else children
    return [pair for leaf, child in zip(leaves, children, strict=True) for pair in _given(leaf, child, where)]


def _dims_of(tensor: Tensor, shape: Any, where: str) -> dict[int, Any]:
    entries = dict(enumerate(shape)) if isinstance(shape, (tuple, list)) else shape
    valid = isinstance(entries, Mapping) and all(isinstance(dim, int) and 0 <= dim < tensor.dim() for dim in entries)
    if not valid or not all(entry is None or isinstance(entry, (*_OPEN, str, int)) for entry in entries.values()):
        raise ConfigError(
            f"got {shape!r} for a tensor of {tensor.dim()} dims",
            where=f"dynamic_shapes, {where}",
            expected="{dim: name or torch.export.Dim}",
        )
    dims = {dim: Dim(entry) if isinstance(entry, str) else entry for dim, entry in entries.items()}
    return {dim: entry for dim, entry in dims.items() if isinstance(entry, _OPEN) and entry is not Dim.STATIC}


def exported_dims(program: torch.export.ExportedProgram, names: Sequence[str], given: Sequence[dict[int, Any] | None]) -> Dims:
    """Returns the table of a program's inputs.

    Args:
        program: The exported program.
        names: Names of the input tensors.
        given: Dims that the caller gave for each; their names are kept.
    """
    user_inputs = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in user_inputs]
    tensors = [value for value in values if isinstance(value, Tensor)]
    symbols: dict[Any, str] = {}
    for first in (True, False):  # dim 0 of every tensor is named before the others
        for tensor, name, dims in zip(tensors, names, given, strict=True):
            for n, size in enumerate(tensor.shape):
                if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol and (n == 0) == first:
                    own = getattr((dims or {}).get(n), "__name__", None)
                    default = "batch" if not symbols else "_".join([*re.findall(r"\w+", name), "batch" if n == 0 else str(n)])
                    if own or size.node.expr not in symbols:
                        symbols[size.node.expr] = own or default
    return [tuple(_entry(size, symbols) for size in tensor.shape) for tensor in tensors]


def _entry(size: Any, symbols: Mapping[Any, str]) -> int | str:
    if not isinstance(size, torch.SymInt) or size.node.expr.is_number:
        return int(size)
    expression = size.node.expr
    return symbols.get(expression) or re.sub(
        r"[A-Za-z]\w*", lambda found: next((n for s, n in symbols.items() if str(s) == found[0]), found[0]), str(expression)
    )


def dims_to_export(graph_module: fx.GraphModule) -> dict[str, Any] | None:
    """Returns torch.export's ``dynamic_shapes`` for a graph's traced inputs; None if all are fixed.

    Sizes after dim 0 are left to torch.export, which infers which values the graph is valid for.
    """
    table: Dims = facts_of(graph_module).dims
    if not any(isinstance(size, str) for dims in table for size in dims):
        return None
    args, kwargs = example_inputs(graph_module)
    arguments = inspect.signature(graph_module.forward).bind(*args, **kwargs).arguments
    symbols: dict[str, Any] = {}

    def mark(size: int | str, n: int) -> Any:
        if isinstance(size, int):
            return None
        factor, symbol = split_multiple(size)
        if n > 0 or not symbol.isidentifier():
            return Dim.AUTO
        dim = symbols.setdefault(symbol, Dim(symbol, min=1))
        return dim if factor == 1 else factor * dim

    def shapes(leaf: Any) -> Any:
        return {n: mark(size, n) for n, size in enumerate(next(rest))} if isinstance(leaf, Tensor) else None

    rest = iter(table)
    return {name: nested_shapes(value, shapes) for name, value in arguments.items()}


def nested_shapes(value: Any, shape_of_leaf: Callable[[Any], Any]) -> Any:
    """Returns torch.export's ``dynamic_shapes`` for one input.

    torch.export takes the containers of Python nested alike, and a list for any other, such as a
    registered dataclass.
    """
    children, spec = pytree.tree_flatten(value, is_leaf=lambda node: node is not value)
    if spec.is_leaf():
        return shape_of_leaf(value)
    nested = [nested_shapes(child, shape_of_leaf) for child in children]
    return pytree.tree_unflatten(nested, spec) if isinstance(value, (list, tuple, dict)) else nested
