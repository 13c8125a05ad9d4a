"""Records which tensors share memory, and what each write gives, in one run on the example inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.multiprocessing.reductions import StorageWeakRef

from qpass.graph.capture.functionalize.mutation import functional_form, functional_kwargs, is_mutable, written_arguments
from qpass.graph.edit import copy_tensors, example_inputs, flat_inputs
from qpass.runtime.free_memory import TidyInterpreter
from qpass.runtime.torch_modes import kept_random_state


@dataclass(frozen=True)
class Seen:
    """A tensor's metadata right after its node ran.

    Attributes:
        storage: Equal for tensors that share memory; does not keep the memory alive.
        layout: Shape, strides and offset.
        dtype: The dtype.
    """

    storage: StorageWeakRef
    layout: tuple[tuple[int, ...], tuple[int, ...], int]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.layout[0]

    @property
    def elements(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


class Recorder(TidyInterpreter):
    """Runs a graph that may write into tensors, and leaves inputs, parameters and buffers unchanged.

    Attributes:
        seen: Output of each node, every tensor as a ``Seen``.
        given: For each call that writes, the (dtype, shape) of each result of its functional form.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.seen: dict[fx.Node, Any] = {}
        self.given: dict[fx.Node, list[tuple[torch.dtype, tuple[int, ...]]]] = {}
        self._own: dict[StorageWeakRef, Tensor] = {}
        self._before: dict[StorageWeakRef, Tensor] = {}

    def record(self) -> Recorder:
        """Runs the graph once."""
        args, kwargs = example_inputs(self.module)  # type: ignore[arg-type]
        inputs = copy_tensors((args, kwargs))
        with torch.no_grad(), kept_random_state():
            try:
                self.run(*flat_inputs(self.module, *inputs))  # type: ignore[arg-type]
            finally:
                for storage, before in self._before.items():
                    self._own[storage].copy_(before)
        return self

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and records its output."""
        if is_mutable(n):
            self._before_write(n)
        result = super().run_node(n)
        self.seen[n] = pytree.tree_map(lambda leaf: _see(leaf) if isinstance(leaf, Tensor) else leaf, result)
        if n.op == "get_attr" and isinstance(self.seen[n], Seen):
            self._own.setdefault(self.seen[n].storage, result)
        return result

    def _before_write(self, node: fx.Node) -> None:
        """Saves the graph's own tensors that will be overwritten, and tries the functional form."""
        for written in pytree.tree_leaves([self.env[argument] for argument in _nodes(written_arguments(node))]):
            storage = _see(written).storage
            if storage in self._own and storage not in self._before:
                self._before[storage] = self._own[storage].clone()
        form = functional_form(node.target)  # type: ignore[arg-type]
        if form is not None:
            args, kwargs = self.fetch_args_kwargs_from_env(node)
            results = form(*args, **functional_kwargs(node.target, kwargs))  # type: ignore[arg-type]
            results = results if isinstance(results, (tuple, list)) else [results]
            self.given[node] = [(result.dtype, tuple(result.shape)) for result in results]


def _nodes(arguments: Sequence[Any]) -> list[fx.Node]:
    return [leaf for leaf in pytree.tree_leaves(list(arguments)) if isinstance(leaf, fx.Node)]


def _see(tensor: Tensor) -> Seen:
    storage = StorageWeakRef(tensor.untyped_storage())
    return Seen(storage, (tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())), tensor.dtype)
