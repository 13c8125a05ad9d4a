"""Functions that a saved graph may call: torch operators, and Python functions that compute sizes."""

from __future__ import annotations

import builtins
import math
import operator
from typing import Any

import torch
from torch import fx

from qpass.errors import DataError
from qpass.graph.signature.input_check import check_inputs
from qpass.serialize.operators import is_allowed, operator_by_name

#: Python and torch functions that torch.export leaves in graphs: size arithmetic, comparisons,
#: tuple items.
_NAMES: dict[Any, tuple[str, ...]] = {
    operator: (
        *("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "pos", "abs"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "xor", "not_", "invert", "lshift", "rshift"),
    ),
    math: ("floor", "ceil", "trunc", "sqrt", "pow", "log2", "log", "exp", "gcd"),
    builtins: ("abs", "bool", "float", "int", "len", "max", "min", "round", "sum"),
    torch: ("sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not", "sym_sqrt", "sym_sum"),
}
#: Operators that run regions of a graph: index of the first region argument, and number of regions.
_REGION_OPERATORS = {
    getattr(torch.ops.higher_order, name): place
    for name, place in {
        "cond": (1, 2),
        "while_loop": (0, 2),
        "scan": (0, 1),
        "map_impl": (0, 1),
        "associative_scan": (0, 1),
    }.items()
    if hasattr(torch.ops.higher_order, name)
}
_FUNCTIONS: dict[str, Any] = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module, names in _NAMES.items()
    for name in names
    if hasattr(module, name)
}
_FUNCTIONS |= {f"higher_order.{runner.name()}": runner for runner in _REGION_OPERATORS}
_FUNCTIONS["qpass.check_inputs"] = check_inputs


def name_of(function: Any, where: str) -> str:
    """Returns the name of a function in a file.

    Raises:
        DataError: If files cannot name it.
    """
    for name, known in _FUNCTIONS.items():
        if known is function:
            return name
    if isinstance(function, torch._ops.OpOverload) and is_allowed(function):
        return str(function)
    shown = function if isinstance(function, torch._ops.OpOverload) else getattr(function, "__name__", function)
    raise DataError(
        f"calls {shown}, which no file can hold",
        where=where,
        expected="operators of torch that compute, and arithmetic of Python",
        hint="keep the graph in memory, or take this part out of the model's forward",
    )


def function_by_name(name: Any, where: str) -> Any:
    """Returns a function by its name; files can only name some torch operators and Python functions.

    Raises:
        DataError: If there is no such function.
    """
    if not isinstance(name, str):
        raise DataError(f"calls a {type(name).__name__}", where=where, expected="the name of a function")
    return _FUNCTIONS[name] if name in _FUNCTIONS else operator_by_name(name, where)


def takes_keywords(target: Any) -> bool:
    """Returns whether a call may have keywords: only of torch operators, as ``max`` calls its ``key``."""
    return isinstance(target, torch._ops.OpOverload)


def bodies(target: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the arguments of an operator that are regions it runs."""
    first, count = _REGION_OPERATORS.get(target, (0, 0))
    return args[first : first + count]


def target_name(node: fx.Node) -> str:
    """Returns the name of ``node.target`` in a file."""
    return name_of(node.target, node.name) if node.op == "call_function" else str(node.target)
