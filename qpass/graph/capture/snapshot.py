"""Saves and restores a model's state: tensors, attributes, and all containers and objects they reach."""

from __future__ import annotations

import functools
import random
import sys
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterator
from types import MemberDescriptorType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Packages whose objects are skipped, except for their modules and containers.
_FOREIGN = sys.stdlib_module_names | {"torch", "numpy"}
#: Standard library classes that hold other objects.
_HOLDERS = (SimpleNamespace, UserDict, UserList)
#: Types that hold no model state and may be large.
_NOT_OPENED = (ModuleType, torch.utils.data.Dataset)
_MISSING = object()


class Snapshot:
    """Saves everything reachable from a model that a forward may change.

    This covers parameters and buffers, the attributes of modules and of their classes, and everything
    in them: dicts, lists, sets, deques, tuples, arrays, random generators, and objects with attributes,
    at any depth. Objects of torch and of the standard library, such as locks and files, are skipped.
    Each tensor is copied once.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._undo: list[Callable[[], object]] = []
        self._seen: dict[int, Any] = {}  # keeps seen objects alive, so that their ids stay unique
        waiting: list[Any] = [model]
        while waiting:
            value = waiting.pop()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                waiting.extend(self._remember(value))

    def restore(self) -> None:
        """Restores everything that has changed, in place."""
        for undo in reversed(self._undo):
            undo()

    def _remember(self, value: Any) -> Iterator[Any]:
        """Saves one object, and yields the objects it refers to."""
        if isinstance(value, Tensor):
            if value.layout is torch.strided and not value.is_meta:
                self._undo.append(_tensor(value))
        elif isinstance(value, np.ndarray):
            self._undo.append(functools.partial(np.copyto, value, value.copy()))
        elif isinstance(value, torch.Generator):
            self._undo.append(functools.partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._undo.append(functools.partial(value.setstate, value.getstate()))
        elif isinstance(value, type):
            if not _is_foreign(value):
                yield from self._remember_class(value)
        else:
            yield from self._remember_items(value)
            if isinstance(value, (nn.Module, *_HOLDERS)) or not (_is_foreign(type(value)) or isinstance(value, _NOT_OPENED)):
                yield from self._remember_attributes(value)
            if isinstance(value, nn.Module):
                yield from type(value).__mro__

    def _remember_items(self, value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            self._undo.append(_dict(value))
            yield from dict.values(value)
        elif isinstance(value, (list, deque)):
            self._undo.append(_list(value))
            yield from value
        elif isinstance(value, set):
            self._undo.append(_set(value))
        elif isinstance(value, tuple):
            yield from value

    def _remember_attributes(self, value: Any) -> Iterator[Any]:
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            yield own
        for kind in type(value).__mro__:
            names = kind.__dict__.get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                if isinstance(kind.__dict__.get(name), MemberDescriptorType):
                    before = getattr(value, name, _MISSING)
                    self._undo.append(functools.partial(_set_slot, name, value, before))
                    yield before

    def _remember_class(self, kind: type) -> Iterator[Any]:
        """Saves a class's attributes other than functions."""
        before = dict(vars(kind))
        self._undo.append(functools.partial(_set_class, kind, before))
        for value in before.values():
            function = getattr(value, "__func__", value)
            if hasattr(function, "cache_clear"):
                self._undo.append(_cached(function))
            elif not callable(value):
                yield value


def _is_foreign(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _FOREIGN


def _tensor(tensor: Tensor) -> Callable[[], None]:
    """Returns a function that restores a tensor's memory and values."""
    with torch.no_grad():
        memory, before = tensor.detach(), tensor.detach().clone()

    def undo() -> None:
        with torch.no_grad():
            if tensor.data_ptr() != memory.data_ptr() or tensor.shape != memory.shape or tensor.dtype != memory.dtype:
                tensor.data = memory
            if not torch.equal(tensor, before):
                tensor.copy_(before)

    return undo


def _dict(value: dict[Any, Any]) -> Callable[[], None]:
    before, kind = dict(value.items()), OrderedDict if isinstance(value, OrderedDict) else dict

    def undo() -> None:
        if not _same(list(kind.items(value)), list(before.items())):
            kind.clear(value)
            for key, entry in before.items():
                kind.__setitem__(value, key, entry)

    return undo


def _list(value: list[Any] | deque[Any]) -> Callable[[], None]:
    before = list(value)

    def undo() -> None:
        if not _same([(entry,) for entry in value], [(entry,) for entry in before]):
            value.clear()
            value.extend(before)

    return undo


def _set(value: set[Any]) -> Callable[[], None]:
    before = set(value)

    def undo() -> None:
        if value != before:
            value.clear()
            value.update(before)

    return undo


def _cached(function: Any) -> Callable[[], None]:
    """Returns a function that clears a ``functools.cache`` with new entries: they may hold traced tensors."""
    before = function.cache_info().misses

    def undo() -> None:
        if function.cache_info().misses != before:
            function.cache_clear()

    return undo


def _set_slot(name: str, value: Any, before: Any) -> None:
    if before is not _MISSING:
        object.__setattr__(value, name, before)  # frozen dataclasses forbid setattr
    elif hasattr(value, name):
        object.__delattr__(value, name)


def _set_class(kind: type, before: dict[str, Any]) -> None:
    for name in [name for name in vars(kind) if name not in before]:
        delattr(kind, name)
    for name, value in before.items():
        if vars(kind).get(name, _MISSING) is not value:
            setattr(kind, name, value)


def _same(found: list[tuple[Any, ...]], before: list[tuple[Any, ...]]) -> bool:
    """Returns whether entries are the same objects in the same order."""
    return len(found) == len(before) and all(
        all(a is b for a, b in zip(x, y, strict=True)) for x, y in zip(found, before, strict=True)
    )
