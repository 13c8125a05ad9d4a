"""torch.export with dim 0 of every input open where the model allows it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from qpass.graph.capture.size_lines import TRIED_SIZES, line_of
from qpass.graph.edit import aten, describe, input_node, is_call
from qpass.graph.signature.input_dims import given_dims, nested_shapes

#: Guards that only say that two sizes are equal, or bound one size: the table of dims covers them.
_SIZE = r"L\[.*\]\.size\(\)\[\d+\]"
_PLAIN_GUARD = re.compile(rf"{_SIZE} == (\d+|{_SIZE})|{_SIZE} (!= [01]|>= [012])")

_SQUEEZES = tuple(getattr(operator, name) for operator in (aten.squeeze, aten.squeeze_) for name in ("default", "dim", "dims"))


class ConditionError(ValueError):
    """A model runs only for sizes that meet a condition, such as an even batch."""


def export_open(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    open_sizes: Sequence[tuple[int, ...]] = (),
    dynamic_shapes: Any = None,
) -> ExportedProgram:
    """Exports a model with dim 0 of each tensor open, or with the dims that the caller opens.

    torch.export ties sizes that the model needs to be equal, and fixes sizes that it needs to be fixed.
    Any other condition on sizes, such as an even batch, makes the export fail.

    Raises:
        ConditionError: If the model needs another condition.
    """
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    given = given_dims(model, args, kwargs, dynamic_shapes)
    more = [*open_sizes, *[()] * (len(tensors) - len(open_sizes))]
    dims = [
        ({0: Dim.AUTO} if tensor.dim() else {}) | dict.fromkeys(opened, Dim.AUTO) if own is None else own
        for tensor, own, opened in zip(tensors, given, more, strict=True)
    ]
    shapes = _shapes(model, args, kwargs, tensors, dims)
    program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    if conditions(program) and not any(open_sizes):
        # Inferred dims may carry conditions; torch.export rejects conditions on named dims.
        by_name = [_by_name(own, sizes) for own, sizes in zip(dims, _sizes(program), strict=True)]
        named = _shapes(model, args, kwargs, tensors, by_name)
        try:
            program = torch.export.export(model, args, kwargs, dynamic_shapes=named, strict=False)
        except Exception as error:  # torch.export raises many kinds
            needed = re.sub(r"L\['(\w+)'\]", r"\1", conditions(program)[0])
            raise ConditionError(f"its forward needs {needed}") from error
    return program


def conditions(program: ExportedProgram) -> list[str]:
    """Returns a program's conditions on sizes beyond equal or fixed, such as whole numbers of windows."""
    return [guard for guard in getattr(program, "_guards_code", None) or () if not _PLAIN_GUARD.fullmatch(guard)]


def holds_for_some(program: ExportedProgram) -> bool:
    """Returns whether a program needs sizes that satisfy an equation, such as whole numbers of windows."""
    return any("%" in guard or "==" in guard for guard in conditions(program))


def squeezed_rows(program: ExportedProgram) -> str:
    """Returns the line of the first operator that removes an open dim only if its size is 1, or ''.

    A single graph cannot express this.
    """
    for node in program.graph.nodes:
        if is_call(node, *_SQUEEZES):
            sizes = input_node(node, 0).meta["val"].shape
            dims: Any = node.args[1] if len(node.args) > 1 else range(len(sizes))
            if any(_may_be_one(sizes[dim]) for dim in ([dims] if isinstance(dims, int) else dims)):
                return line_of(node) or describe(node)
    return ""


def _may_be_one(size: Any) -> bool:
    """Returns whether an open size is 1 for some input sizes."""
    if not isinstance(size, torch.SymInt) or size.node.expr.is_number:
        return False
    expression = size.node.expr
    return any(expression.subs(dict.fromkeys(expression.free_symbols, given)) == 1 for given in TRIED_SIZES)


def _sizes(program: ExportedProgram) -> list[torch.Size]:
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    return [value.shape for value in values if isinstance(value, Tensor)]


def _by_name(dims: dict[int, Any], sizes: torch.Size) -> dict[int, Any]:
    """Replaces AUTO by a Dim where torch.export found a symbol, and by None where it did not."""
    return {n: _dim(sizes[n]) if dim is Dim.AUTO else dim for n, dim in dims.items()}


def _dim(size: Any) -> Any:
    return Dim(f"rows_{size}", min=1) if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol else None


def _shapes(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: Sequence[Tensor], dims: Sequence[dict[int, Any]]
) -> Any:
    """Returns torch.export's ``dynamic_shapes``, nested like the arguments of the model's forward."""
    by_tensor = {id(tensor): own or None for tensor, own in zip(tensors, dims, strict=True)}
    arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments  # *args and **kwargs come nested
    return {name: nested_shapes(value, lambda leaf: by_tensor.get(id(leaf))) for name, value in arguments.items()}
