"""Names the inputs of a call, and checks that two calls have the same ones."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from qpass.errors import CalibrationError

#: Input types besides tensors that torch.export takes; they become constants of the graph.
CONSTANTS = (bool, int, float, str, type(None))


def forward_parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Returns the parameters of the model's forward; empty if they cannot be inspected."""
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return {}


def takes_any_name(model: nn.Module) -> bool:
    """Returns whether the model's forward takes ``**kwargs``."""
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in forward_parameters(model).values())


def named_leaves(args: tuple[Any, ...], kwargs: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Returns a call's values by name, flattened: ``"x"``, ``"sizes[0]"``, ``"inputs['mask']"``."""
    parameters = forward_parameters(model)
    positional = [name for name, parameter in parameters.items() if parameter.kind in (0, 1)]
    rest_of_args = next((name for name, parameter in parameters.items() if parameter.kind is parameter.VAR_POSITIONAL), None)
    named = {}
    for path, leaf in pytree.tree_flatten_with_path((args, dict(kwargs)))[0]:
        key, rest = path[1], pytree.keystr(path[2:])
        if isinstance(key, pytree.SequenceKey):
            name = positional[key.idx] if key.idx < len(positional) else _name_of_rest(rest_of_args, key.idx, len(positional))
        else:
            name = str(key.key)  # type: ignore[attr-defined]
        named[name + rest] = leaf
    return named


def _name_of_rest(star: str | None, index: int, positional: int) -> str:
    """Returns the name of an argument behind the named ones; ``star`` is what the forward calls them."""
    return f"argument {index}" if star is None else f"{star}_{index - positional}"


def check_structure(found: Mapping[str, Any], first: Mapping[str, Any], where: str) -> None:
    """Rejects a call whose inputs or constants differ from the first call's.

    Args:
        found: Values of the call by name.
        first: Values of the first call by name.
        where: Location for messages.

    Raises:
        CalibrationError: Names the difference.
    """
    missing, more = first.keys() - found.keys(), found.keys() - first.keys()
    if missing or more:
        parts = [f"no input {sorted(missing)}"] * bool(missing) + [f"an input {sorted(more)}"] * bool(more)
        raise CalibrationError(
            " and ".join(parts),
            where=where,
            expected=f"the inputs of the first batch, {list(first)}",
            hint="a graph takes the same inputs in every call: give all batches the same ones",
        )
    for name, value in found.items():
        if isinstance(value, Tensor) != isinstance(first[name], Tensor):
            kinds = [_kind(value), _kind(first[name])]
            raise CalibrationError(f"{name} is {kinds[0]}", where=where, expected=f"{kinds[1]}, as in the first batch")
        if not isinstance(value, Tensor) and not same_constant(value, first[name]):
            raise CalibrationError(
                f"{name}={value!r}, but {first[name]!r} in the first batch",
                where=where,
                expected="the same value in all batches: it becomes a constant of the graph",
                hint="pass it as a tensor, or quantize once for each value",
            )


def check_values(found: Mapping[str, Any], where: str) -> None:
    """Rejects values that a graph cannot take.

    Raises:
        CalibrationError: Names the input.
    """
    for name, value in found.items():
        if not isinstance(value, (Tensor, *CONSTANTS)):
            raise CalibrationError(
                f"{name} is a {type(value).__name__}",
                where=where,
                expected="tensors, numbers, strings or None, or lists, tuples and dicts of them",
                hint="pass transform_fn= to turn it into one of these, or wrap the model in a module that passes it on",
            )


def same_constant(a: Any, b: Any) -> bool:
    """Returns whether two non-tensor values are the same constant: 1 is not True, NaN is NaN."""
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


def _kind(value: Any) -> str:
    return "a tensor" if isinstance(value, Tensor) else repr(value)
