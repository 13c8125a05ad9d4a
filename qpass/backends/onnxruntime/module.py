"""Runs a file in place of the graph it was exported from, inside a torch model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.backends.onnxruntime.session import OrtSession
from qpass.data import ModelInputs
from qpass.data.rows import batch_size
from qpass.errors import VerifyError
from qpass.graph.signature.input_check import named_inputs
from qpass.graph.signature.outputs import is_tensor_output, output_leaves, output_spec, value_of


class OrtModule(nn.Module):
    """Runs a graph's file in onnxruntime, with the graph's inputs and output structure.

    Args:
        graph_module: The graph.
        path: The file.
        threads: Intra-op threads; 0 means onnxruntime's default.

    Raises:
        LoweringError: If onnxruntime cannot load the file.
        VerifyError: If the file and the graph differ in their number of outputs.
    """

    def __init__(self, graph_module: fx.GraphModule, path: str | Path, *, threads: int = 0) -> None:
        super().__init__()
        self._session = OrtSession(path, threads=threads)
        self._graph_module = [graph_module]  # in a list, so that its tensors are not registered here
        self._outputs, self._spec = output_leaves(graph_module), output_spec(graph_module)
        expected, found = sum(map(is_tensor_output, self._outputs)), len(self._session.output_names)
        if expected != found:
            raise VerifyError(f"the file has {found} outputs", where=str(path), expected=f"the {expected} of the graph")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the file; for an empty batch it runs one row of zeros and drops it.

        Runtimes reject empty tensors.
        """
        call = given = named_inputs(self._graph_module[0], ModelInputs(args, kwargs))
        empty = batch_size(call) == 0
        if empty:
            call = ModelInputs(*pytree.tree_map(_one_row, tuple(call)))
        computed = self._session.run(self._session.feed(call))
        arrays = iter([computed[name] for name in self._session.output_names])
        leaves = [
            torch.from_numpy(next(arrays)) if is_tensor_output(leaf) else value_of(leaf, given.kwargs) for leaf in self._outputs
        ]
        if empty:
            leaves = [leaf[:0] if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return leaves[0] if self._spec is None else pytree.tree_unflatten(leaves, self._spec)


def _one_row(leaf: Any) -> Any:
    return leaf.new_zeros((1, *leaf.shape[1:])) if isinstance(leaf, Tensor) and leaf.dim() and not len(leaf) else leaf
