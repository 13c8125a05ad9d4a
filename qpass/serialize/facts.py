"""Encodes the facts of a frozen graph that are stored nowhere else in a file as typed JSON, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from qpass.errors import DataError
from qpass.graph.facts import GraphFacts, facts_of
from qpass.graph.signature.input_dims import split_multiple
from qpass.runtime.arguments import is_number
from qpass.serialize.values import decode, encode


def encode_facts(graph_module: fx.GraphModule) -> dict[str, Any]:
    """Returns JSON data for the facts.

    Raises:
        DataError: If one has a type that files do not support.
    """
    facts, unset = facts_of(graph_module), GraphFacts()
    values = {field: getattr(facts, field) for field in _FACTS}
    kept = {field: value for field, value in values.items() if field in _NEEDED or value != getattr(unset, field)}
    return {field: encode(value, field) for field, value in kept.items()}


def decode_facts(data: Any) -> dict[str, Any]:
    """Returns the facts.

    Raises:
        DataError: Naming the fact that is unknown, missing or of the wrong type.
    """
    if not isinstance(data, dict) or not _NEEDED <= set(data) <= set(_FACTS):
        raise DataError("has other facts", where="facts", expected=f"{sorted(_FACTS)}")
    facts = {key: decode(value, {}, f"facts.{key}") for key, value in data.items()}
    for key, value in facts.items():
        if not _FACTS[key](value):
            raise DataError(f"is {str(value)[:60]}", where=f"facts.{key}", expected="what qpass.save writes")
    return facts


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _size(value: Any) -> bool:
    return is_number(value, int) and value >= 0


def _dim(value: Any) -> bool:
    factor, symbol = split_multiple(value) if isinstance(value, str) else (0, "")
    return _size(value) or (0 < factor < 2**31 and symbol.isidentifier())


def _several(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(holds, value))


#: Every fact that ``quantize_graph`` leaves, with the check of its value.
_FACTS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("dynamic_batch", "bound_sizes", "is_part"), _flag),
    **dict.fromkeys(("rotated_residual", "rotated_heads", "compensated"), _flag),
    "names": _several(_text),
    "dims": _several(_several(_dim)),
    "open_sizes": _several(_several(_size)),
    "sizes": _several(_several(_several(_size))),
    "free": _several(_text),
}
_NEEDED = {"dynamic_batch", "bound_sizes", "names", "dims", "open_sizes"}
