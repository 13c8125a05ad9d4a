"""Finds the first module whose output differs between a graph and the model, for error messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from qpass.graph.edit import KEPT_ROWS, module_path
from qpass.graph.source_check.output_error import tensor_error
from qpass.runtime.free_memory import TidyInterpreter
from qpass.runtime.storage import SpilledTensor, Storage

#: Largest error of a module's output that counts as agreement.
SAME_MODULE = 1e-4
#: Most bytes of outputs to record. Modules that run after that are not compared.
MOST_BYTES = 2**28


@contextmanager
def recorded_outputs(model: nn.Module, storage: Storage) -> Iterator[dict[str, SpilledTensor]]:
    """Records, by path, the output of every module that is called once and returns one tensor.

    Args:
        model: The model, called inside the block.
        storage: Where to keep the outputs.
    """
    found: dict[str, SpilledTensor] = {}
    calls: dict[str, int] = {}
    size = 0

    def hook(path: str, output: Any) -> None:
        nonlocal size
        if torch.compiler.is_dynamo_compiling():  # such as in a branch of cond, which allows no side effects
            return
        calls[path] = calls.get(path, 0) + 1
        if not isinstance(output, Tensor) or calls[path] > 1 or size + output.nbytes > MOST_BYTES:
            if path in found:
                size -= found.pop(path).nbytes
            return
        found[path] = storage.keep(output.detach().clone())
        size += output.nbytes

    handles = [
        module.register_forward_hook(lambda _module, _args, output, path=path: hook(path, output))
        for path, module in model.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class ModuleErrors(TidyInterpreter):
    """Runs a graph and compares each module's last node with the module's output.

    Args:
        graph_module: The graph.
        expected: Module outputs, by path.

    Attributes:
        errors: Error of each compared node, in order.
    """

    def __init__(self, graph_module: fx.GraphModule, expected: Mapping[str, SpilledTensor]) -> None:
        super().__init__(graph_module)
        made = (node for node in graph_module.graph.nodes if node.op.startswith("call"))
        last = {module_path(node): node for node in made}
        self._expected = {node: expected[path] for path, node in last.items() if path in expected}
        self.errors: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node and compares its result."""
        result = super().run_node(n)
        if n in self._expected and isinstance(result, Tensor):
            expected = self._expected[n].read()
            expected = expected.narrow(*n.meta[KEPT_ROWS][:3]) if KEPT_ROWS in n.meta else expected
            self.errors[n] = tensor_error(result, expected)
        return result

    @property
    def agreeing(self) -> set[fx.Node]:
        """The nodes whose results agree with their modules' outputs."""
        return {node for node, error in self.errors.items() if error <= SAME_MODULE}

    def first_difference(self, agreed: Collection[str]) -> fx.Node | None:
        """Returns the first node that differs and whose difference is not undone later.

        Args:
            agreed: Paths of modules that agreed before the pass. Inside a rotated stream, or after a
                folded scale, outputs are expected to differ; their users agree again.
        """
        undone, agreeing = set[fx.Node](), self.agreeing
        for node in reversed(self.graph.nodes):
            if any(user in undone or user in agreeing for user in node.users):
                undone.add(node)
        left = (node for node in self.errors if node not in undone and node not in agreeing)
        return next((node for node in left if module_path(node) in agreed), None)
