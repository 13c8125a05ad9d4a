"""Computes the values that in-place operators write, with functional operators."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from qpass.errors import TraceError
from qpass.graph.capture.functionalize.mutation import functional_form, functional_kwargs
from qpass.graph.capture.functionalize.record import Recorder
from qpass.graph.capture.functionalize.sizes import size_arguments
from qpass.graph.edit import aten, call_like, describe, is_call

_COPIES = (aten.copy_.default, aten.fill_.Tensor)


class WrittenValues:
    """Computes the values that calls write.

    Args:
        graph_module: The graph to add nodes to.
        recorder: Recorded outputs of its nodes.
        read: Returns arguments with each node replaced by its value before a given node runs.
    """

    def __init__(self, graph_module: fx.GraphModule, recorder: Recorder, read: Callable[[Any, fx.Node], Any]) -> None:
        self._graph_module, self._recorder, self._read = graph_module, recorder, read

    def __call__(self, node: fx.Node, targets: Sequence[fx.Node]) -> list[fx.Node]:
        """Returns, for each tensor that ``node`` writes into, the node of its value afterwards.

        Raises:
            TraceError: If the operator has no functional form, or the value does not fit the tensor.
        """
        if is_call(node, *_COPIES):
            value, source = self._read(node.args[1], node), self._recorder.seen[node.args[1]]  # type: ignore[index]
            return [self._fit(node, value, source.dtype, source.shape, targets[0])]
        if is_call(node, aten.zero_.default):
            return [self._call(node, aten.zeros_like.default, self._read(targets[0], node))]
        if is_call(node, aten.fill_.Scalar):
            return [self._call(node, aten.full_like.default, self._read(targets[0], node), node.args[1])]
        result = self._functional(node)
        results = (
            [result] if len(targets) == 1 else [self._call(node, operator.getitem, result, i) for i in range(len(targets))]
        )
        return [
            self._fit(node, value, dtype, shape, target)
            for value, (dtype, shape), target in zip(results, self._recorder.given[node], targets, strict=True)
        ]

    def view(self, node: fx.Node) -> fx.Node:
        """Returns the view that an in-place change of shape, such as ``unsqueeze_``, amounts to."""
        view = self._functional(node)
        view.meta["val"] = node.meta.get("val")
        return view

    def _functional(self, node: fx.Node) -> fx.Node:
        form = functional_form(node.target)  # type: ignore[arg-type]
        if form is None:
            raise TraceError(
                f"{node.target} writes into a tensor and has no functional form",
                where=describe(node),
                hint="use an operator that returns a new tensor",
            )
        args, kwargs = self._read((node.args, functional_kwargs(node.target, dict(node.kwargs))), node)  # type: ignore[arg-type]
        return self._call(node, form, *args, **kwargs)

    def _call(self, node: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return call_like(self._graph_module, node, target, *args, **kwargs)

    def _fit(self, node: fx.Node, value: fx.Node, dtype: torch.dtype, shape: tuple[int, ...], target: fx.Node) -> fx.Node:
        """Converts a value to the dtype and shape of the tensor that it is written into."""
        seen = self._recorder.seen[target]
        if dtype != seen.dtype:
            value = self._call(node, aten.to.dtype, value, seen.dtype)
        if shape == seen.shape:
            return value
        if len(shape) > len(seen.shape) or any(a not in (1, b) for a, b in zip(shape[::-1], seen.shape[::-1], strict=False)):
            raise TraceError(
                f"{node.target} writes {shape} into a tensor of shape {seen.shape}",
                where=describe(node),
                hint="reshape or expand the value to the tensor's shape",
            )
        present = self._read(target, node)
        sizes = size_arguments(self._graph_module, target, present, node)
        if sizes is None:
            return self._call(node, aten.expand_as.default, value, present)
        return self._call(node, aten.expand.default, value, sizes)
