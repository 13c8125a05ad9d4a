"""Outputs of a loaded graph in place of another library's output class, which a file must not name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.utils._pytree as pytree


class NamedOutputs(dict[str, Any]):
    """The fields of a dataclass or of a transformers ``ModelOutput``.

    Fields are read as attributes (``out.logits``), by key (``out["logits"]``) and by position
    (``out[0]``). Fields that were None are None as attributes, and are not keys.

    Args:
        fields: Name and value of each field that is not None.
        empty: Names of the other fields.
    """

    def __init__(self, fields: dict[str, Any], empty: Sequence[str] = ()) -> None:
        super().__init__(fields)
        object.__setattr__(self, "_empty", tuple(empty))

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in self.__dict__.get("_empty", ()):
            return None
        raise AttributeError(f"the outputs have no field {name!r}: they are {', '.join(self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, key: Any) -> Any:
        return self.to_tuple()[key] if isinstance(key, int | slice) else super().__getitem__(key)

    def __reduce__(self) -> Any:
        return type(self), (dict(self), self._empty)

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns the values in order."""
        return tuple(self.values())


def _flatten(outputs: Any) -> tuple[list[Any], Any]:
    return list(outputs.values()), [list(outputs), list(outputs._empty)]


def _unflatten(values: Any, context: Any) -> NamedOutputs:
    names, empty = context
    return NamedOutputs(dict(zip(names, values, strict=True)), empty)


pytree.register_pytree_node(NamedOutputs, _flatten, _unflatten, serialized_type_name="qpass.named_outputs.NamedOutputs")
