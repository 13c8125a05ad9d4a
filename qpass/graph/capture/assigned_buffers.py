"""Keeps torch.export from looking for the buffers that a forward assigns or registers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_assigned_buffers() -> Iterator[None]:
    """Makes torch.export append no writes into buffers that the model's forward assigns.

    It looks up their inputs by position. If a buffer is None, or the forward registers one, it writes
    into another buffer or into an input of the model, or finds no input and fails. Graphs need no such
    writes: the source check runs the model twice, and finds state that the next call reads.
    """
    from torch.export import _trace  # takes 2 seconds to import

    # private in torch: if they are removed, exports do what they do without this
    replaced = {"register_buffer_assignment_hook": _no_hook, "_graph_input_names": _endless}
    originals = {name: getattr(_trace, name) for name in replaced if hasattr(_trace, name)}
    for name, original in originals.items():
        setattr(_trace, name, replaced[name](original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(_trace, name, original)


class _Endless(list[str]):
    """A list whose last entry follows itself."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index if isinstance(index, slice) else min(index, len(self) - 1))


def _endless(original: Callable[..., list[str]]) -> Callable[..., list[str]]:
    return lambda graph_module: _Endless(original(graph_module))


def _no_hook(_: Callable[..., Any]) -> Callable[..., None]:
    return lambda module, assigned: None
