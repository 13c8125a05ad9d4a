"""A file in the place of the graph that it was written from, inside a model that stays in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.backends.onnxruntime.session import OrtSession
from qpass.data import ModelInputs
from qpass.data.batches import batch_size
from qpass.errors import VerifyError
from qpass.parts import check_sizes


class OrtModule(nn.Module):
    """Computes with onnxruntime what a graph computes, for the same inputs and with the same structure of outputs.

    Args:
        graph_module: The graph.
        path: The file.
        threads: Threads inside an operator; 0 takes onnxruntime's default.

    Raises:
        LoweringError: If onnxruntime cannot load the file.
        VerifyError: If it has not the outputs that the graph has.
    """

    def __init__(self, graph_module: fx.GraphModule, path: str | Path, *, threads: int = 0) -> None:
        super().__init__()
        self._session = OrtSession(path, threads=threads)
        self._graph_module = [graph_module]  # in a list, so that its tensors are not this module's
        output = next(node for node in graph_module.graph.nodes if node.op == "output")
        self._outputs = pytree.tree_leaves(output.args[0])
        codegen = graph_module.graph._codegen
        self._spec = codegen.pytree_info.out_spec if hasattr(codegen, "pytree_info") else None
        expected, found = sum(leaf is not None for leaf in self._outputs), len(self._session.output_names)
        if expected != found:
            raise VerifyError(f"the file has {found} outputs", where=str(path), expected=f"the {expected} of the graph")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See the class. Without rows it computes one of zeros and returns none of them: runtimes refuse empty tensors."""
        call = ModelInputs(args, kwargs)
        check_sizes(self._graph_module[0], call)
        empty = batch_size(call) == 0
        if empty:
            call = ModelInputs(*pytree.tree_map(_one_row, tuple(call)))
        computed = self._session.run(self._session.feed(call))
        arrays = iter([computed[name] for name in self._session.output_names])
        leaves = [None if leaf is None else torch.from_numpy(next(arrays)) for leaf in self._outputs]
        if empty:
            leaves = [leaf if leaf is None else leaf[:0] for leaf in leaves]
        return leaves[0] if self._spec is None else pytree.tree_unflatten(leaves, self._spec)


def _one_row(leaf: Any) -> Any:
    return leaf.new_zeros((1, *leaf.shape[1:])) if isinstance(leaf, Tensor) and leaf.dim() and not len(leaf) else leaf
