"""Operators that write into their arguments, and their functional forms.

``add_`` -> ``add``, ``matmul.out`` -> ``matmul``.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import fx

#: Operators that change the memory behind a tensor, which no value can represent.
_NO_VALUE = ("set_", "resize_", "resize_as_", "resize", "resize_as", "set")


def is_mutable(node: fx.Node) -> bool:
    """Returns whether a node calls an operator that writes into an argument."""
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    return bool(getattr(schema, "is_mutable", False))


def changes_shape(node: fx.Node) -> bool:
    """Returns whether a node reshapes its argument over the same memory, as ``unsqueeze_`` does."""
    return torch.Tag.inplace_view in getattr(node.target, "tags", ())


def written_arguments(node: fx.Node) -> list[Any]:
    """Returns the arguments that a mutable node writes into."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    found = [
        node.args[index] if index < len(node.args) else node.kwargs.get(entry.name)
        for index, entry in enumerate(schema)
        if entry.alias_info is not None and entry.alias_info.is_write
    ]
    return [value for value in found if value is not None]


@cache
def functional_form(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """Returns the operator that computes what ``target`` writes, without ``out`` arguments, or None."""
    namespace, _, name = target._schema.name.partition("::")
    plain = f"__{name[3:]}" if name.startswith("__i") else name.removesuffix("_")
    wanted = _types(target)
    for candidate in (plain, f"{plain}_functional"):
        packet = getattr(getattr(torch.ops, namespace), candidate, None)
        if packet is None or candidate in _NO_VALUE:
            continue
        overloads = [getattr(packet, overload) for overload in packet.overloads()]
        overloads.sort(key=lambda overload: overload._overloadname != target._overloadname)
        for overload in overloads:
            if not overload._schema.is_mutable and _types(overload) == wanted:
                return overload  # type: ignore[no-any-return]
    return None


def functional_kwargs(target: torch._ops.OpOverload, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments without the ``out`` arguments, which are only written into."""
    out = {entry.name for entry in target._schema.arguments if entry.is_out}
    return {name: value for name, value in kwargs.items() if name not in out}


def _types(target: torch._ops.OpOverload) -> list[str]:
    return [str(entry.type) for entry in target._schema.arguments if not entry.is_out]
