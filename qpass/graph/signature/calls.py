"""Binds the arguments of a call to a graph's inputs by name, and flattens them without losing any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch.utils._pytree as pytree
from torch import fx
from torch.fx._pytree import tree_flatten_spec

from qpass.errors import UnsupportedError, nearest


def input_spec(graph_module: fx.GraphModule) -> Any:
    """Returns the pytree spec of a call's ``(args, kwargs)``; None for a graph that takes flat inputs."""
    codegen = graph_module.graph._codegen
    return codegen.pytree_info.in_spec if hasattr(codegen, "pytree_info") else None


def bind_call(
    graph_module: fx.GraphModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns a call's ``(args, kwargs)`` as when the graph was traced: by name or position, in order.

    Raises:
        UnsupportedError: If inputs are missing or unknown. Names them.
    """
    spec, names = input_spec(graph_module), list(graph_module.graph._codegen.pytree_info.orig_args)  # type: ignore[attr-defined]
    positional, keywords = spec.children()
    keys = [*names[: positional.num_children], *keywords.context]
    given = {**dict(zip(keys, args, strict=False)), **kwargs}
    missing, more = [key for key in keys if key not in given], [key for key in given if key not in keys]
    if missing or more or len(args) > len(keys):
        parts = [f"no input {missing}"] * bool(missing) + [f"an input {more}"] * bool(more)
        raise UnsupportedError(
            " and ".join(parts) or f"{len(args)} positional inputs",
            where=type(graph_module).__name__,
            expected=f"the inputs that it was traced with, {keys}",
            hint=nearest(more[0], keys) if more and missing else "",
        )
    return tuple(given[key] for key in keys[: positional.num_children]), {key: given[key] for key in keywords.context}


class CheckedCodeGen(fx.graph._PyTreeCodeGen):
    """Makes a graph's own forward flatten its inputs with ``flatten_call``."""

    def gen_var_bindings(self, *args: Any, **kwargs: Any) -> str:
        """See ``torch.fx.graph.CodeGen``."""
        return super().gen_var_bindings(*args, **kwargs).replace("fx_pytree.tree_flatten_spec(", "flatten_call(")

    def additional_globals(self) -> list[tuple[str, Any]]:
        """See ``torch.fx.graph.CodeGen``."""
        return [*super().additional_globals(), ("flatten_call", flatten_call)]


def flatten_call(tree: Any, spec: Any) -> list[Any]:
    """Returns the leaves of nested inputs, in the order of ``spec``; dict keys may come in any order.

    Raises:
        UnsupportedError: If their nesting differs from ``spec``. torch.fx itself drops extra entries.
    """
    if spec.is_leaf():
        return [tree]
    if isinstance(tree, fx.Proxy):
        return tree_flatten_spec(tree, spec)  # type: ignore[no-any-return]
    kind = spec.type if isinstance(spec.type, type) else spec.context  # for a NamedTuple, torch gives the function namedtuple
    if issubclass(kind, Mapping) and isinstance(tree, Mapping):
        keys = pytree.tree_unflatten([None] * spec.num_leaves, spec).keys()
        _check(list(tree), keys)
        children = [tree[key] for key in keys]
    elif issubclass(kind, (list, tuple)) and isinstance(tree, (list, tuple)):
        _check(range(len(tree)), range(spec.num_children))
        children = list(tree)
    elif type(tree) is kind:
        children = list(pytree.SUPPORTED_NODES[kind].flatten_fn(tree)[0])
        _check(range(len(children)), range(spec.num_children))
    else:
        raise UnsupportedError(f"an input is a {type(tree).__name__}", where="call", expected=f"a {kind.__name__}")
    return [
        leaf for child, child_spec in zip(children, spec.children(), strict=True) for leaf in flatten_call(child, child_spec)
    ]


def _check(found: Iterable[Any], expected: Iterable[Any]) -> None:
    if set(found) != set(expected):
        raise UnsupportedError(
            f"an input holds the entries {list(found)}", where="call", expected=f"{list(expected)}, as when it was traced"
        )
