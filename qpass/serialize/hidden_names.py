"""Checks input names in a graph's code: they must be unique, and shadow no name that the code uses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from qpass.errors import DataError

#: Names that torch.fx provides to all code, used or not.
_ALWAYS = {"inf", "nan", "NoneType", "device"}


def check_hides_nothing(graph: fx.Graph) -> None:
    """Rejects a graph with two inputs of the same name, or an input that shadows a name its code uses.

    Raises:
        DataError: Naming the input.
    """
    targets = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    own = getattr(graph._codegen, "pytree_info", None)
    for name in targets:
        if targets.count(name) > 1:
            raise DataError("is the name of two inputs", where=name, expected="a name for each")
    used = (graph.python_code("self").globals.keys() - _ALWAYS) | set(_implied(graph))
    for name in (*targets, *(own.orig_args if own is not None else ())):
        if name in used or (name.startswith("__") and name.endswith("__")):
            raise DataError("is the name of something that the code uses", where=name, expected="another name for this input")


def _implied(graph: fx.Graph) -> Iterator[str]:
    """Yields names that the code uses to write values and paths."""
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module") and not all(map(str.isidentifier, str(node.target).split("."))):
            yield "getattr"
        yield from _written(node.args)
        yield from _written(tuple(node.kwargs.values()))


def _written(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _written(item)
    elif isinstance(value, dict):
        yield from _written(tuple(value.values()))
    elif isinstance(value, complex):
        yield from ("complex", "inf", "nan")
    elif isinstance(value, float) and not math.isfinite(value):
        yield str(abs(value))
    elif isinstance(value, torch.device | slice | range):
        yield type(value).__name__
    elif value is Ellipsis:
        yield "Ellipsis"
