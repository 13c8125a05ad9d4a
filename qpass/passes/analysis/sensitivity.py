"""Output errors due to small errors at single nodes, from one forward and backward pass per batch.

The output error is J e, with e the error at a node and J the Jacobian of the output with respect to
the node's output. For random signs r, E (rᵀ J e)² = ‖J e‖², and one backward pass gives rᵀ J for
all nodes (Hutchinson's estimator). The estimate is first-order: it ranks errors, but is not exact
for large ones or for several nodes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.data.rows import batch_size
from qpass.graph.edit import flat_inputs
from qpass.graph.fill_values import repeated_fills
from qpass.graph.signature.input_dims import layout_of
from qpass.passes.analysis.saved_tensors import saved_in
from qpass.progress import track
from qpass.runtime.free_memory import TidyInterpreter
from qpass.runtime.storage import SpilledTensor, Storage

#: The error that an option makes at a node, given the node's first input.
ErrorFunction = Callable[[Tensor], Tensor]
#: Takes a node and rᵀ J with respect to its output.
Reader = Callable[[fx.Node, Tensor], None]


def output_errors(
    graph_module: fx.GraphModule,
    errors: Mapping[fx.Node, Sequence[ErrorFunction]],
    batches: Sequence[ModelInputs],
    *,
    seed: int = 0,
    storage: Storage | None = None,
    show_progress: bool = False,
) -> dict[fx.Node, list[float]]:
    """Returns the first-order error of each option alone, as a share of the squared output.

    Args:
        graph_module: The float network.
        errors: Error function of each option, by node. An error has the shape of the node's output.
        batches: Model inputs.
        seed: Random seed of the signs.
        storage: Where tensors saved for the backward pass are kept; None keeps them in memory.
        show_progress: Show a progress bar.
    """
    totals = {node: [0.0] * len(options) for node, options in errors.items()}
    probe = Probe(graph_module, set(errors), seed=seed, storage=storage, keep_inputs=True)
    for batch in track(batches, "sensitivity", show=show_progress):

        def add(node: fx.Node, gradient: Tensor, rows: int = batch_size(batch, layout_of(graph_module))) -> None:
            x = probe.take_input(node)
            for index, error in enumerate(errors[node]):
                product = gradient * error(x)
                # Products of different samples are independent; a tensor that mixes samples counts as one.
                by_sample = product.reshape(rows, -1) if product.shape[0] % rows == 0 else product.reshape(1, -1)
                totals[node][index] += by_sample.sum(1, dtype=torch.float64).square().sum().item()

        probe.run(batch, add)
    return {node: [total / len(batches) for total in options] for node, options in totals.items()}


class Probe:
    """Runs forward and backward passes; passes rᵀ J with respect to nodes' outputs to a reader on arrival.

    A derivative is released when its reader returns, and tensors saved for the backward pass go to a
    storage: neither grows with the network. Nodes that the output does not depend on are skipped.

    Args:
        graph_module: The float network.
        nodes: The nodes.
        seed: Random seed of the signs, whose sequence continues from call to call.
        storage: Where tensors saved for the backward pass are kept; None keeps them in memory.
        keep_inputs: Also keep the inputs of the nodes.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        nodes: set[fx.Node],
        *,
        seed: int = 0,
        storage: Storage | None = None,
        keep_inputs: bool = False,
    ) -> None:
        self._graph_module, self._nodes, self._keeps_inputs = graph_module, nodes, keep_inputs
        self._generator = torch.Generator().manual_seed(seed)
        self._storage = Storage() if storage is None else storage
        self._inputs: dict[fx.Node, SpilledTensor] = {}

    def run(self, batch: ModelInputs, read: Reader) -> None:
        """Runs one call; ``read`` is called once for each node, from the last one to the first."""
        run = _Differentiable(self._graph_module, self._nodes, self._keep_input, torch.no_grad()(read))
        with torch.enable_grad(), saved_in(self._storage, self._graph_module):
            output = run.run(*flat_inputs(self._graph_module, *batch))
            probe = _probe(output, self._generator)
            del output
            # If all outputs are integers, no small error reaches them.
            if probe.requires_grad:
                gradients = torch.autograd.grad(probe, list(run.sources.values()), allow_unused=True)
                for node, gradient in zip(run.sources, gradients, strict=True):
                    if gradient is not None:
                        run.read(node, gradient)
        self._inputs.clear()

    def take_input(self, node: fx.Node) -> Tensor:
        """Returns the first input of a node and releases it."""
        return self._inputs.pop(node).read()

    def _keep_input(self, node: fx.Node, value: Tensor) -> None:
        if self._keeps_inputs:
            self._inputs[node] = self._storage.keep(value)


class _Differentiable(TidyInterpreter):
    """Runs a graph so that derivatives with respect to some nodes' outputs reach a reader.

    Attributes:
        sources: Outputs of the nodes with none of the others upstream. The backward pass ends there.
        read: The reader.
    """

    def __init__(
        self, graph_module: fx.GraphModule, nodes: set[fx.Node], keep_input: Callable[[fx.Node, Tensor], None], read: Reader
    ) -> None:
        super().__init__(graph_module)
        self._nodes, self._keep_input, self.read = nodes, keep_input, read
        self.sources: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n not in self._nodes:
            return result
        (x, *_), _ = self.fetch_args_kwargs_from_env(n)
        self._keep_input(n, x.detach())
        # A view: a disabled quantizer returns its input, whose other readers must not be counted.
        if result.requires_grad:
            result = result.view_as(result)
            result.register_hook(partial(self._read_on_the_way_back, n))
        else:
            self.sources[n] = result = result.detach().requires_grad_()
        return result

    def _read_on_the_way_back(self, node: fx.Node, gradient: Tensor) -> None:
        self.read(node, gradient)
        self.made(gradient)


def _probe(output: Any, generator: torch.Generator) -> Tensor:
    """Returns Σ r y over all differentiable outputs y, with random signs r and each y divided by its norm."""
    floats = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    parts = []
    for leaf in floats:
        signs = torch.randint(2, leaf.shape, generator=generator).to(leaf) * 2 - 1
        seen = leaf.isfinite() & ~repeated_fills(leaf)  # masked values have no derivative but would dominate the norm
        norm = torch.where(seen, leaf.detach().double(), 0.0).square().sum().sqrt().clamp_min(1e-30)
        parts.append(torch.where(seen, signs * leaf, 0.0).sum(dtype=torch.float64) / (norm * len(floats) ** 0.5))
    return torch.stack(parts).sum() if parts else torch.zeros(())
