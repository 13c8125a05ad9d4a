"""What small errors at single nodes do to the network's output, all from one run forth and back for each batch.

The output's error is J e, with e the error at a node and J the derivative of the output by what the node gives. With signs r
drawn at random, E (rᵀ J e)² = ‖J e‖², and rᵀ J is one backward pass for all nodes (Hutchinson's estimator). Errors that are not
small, or that several nodes make together, are not what this first order says; it ranks them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.data.rows import batch_size
from qpass.graph import flat_inputs
from qpass.input_dims import layout_of
from qpass.progress import track

#: The error that an option makes at a node, given the node's first input.
NodeError = Callable[[Tensor], Tensor]


def output_errors(
    graph_module: fx.GraphModule,
    errors: Mapping[fx.Node, Sequence[NodeError]],
    batches: Sequence[ModelInputs],
    *,
    seed: int = 0,
    show_progress: bool = False,
) -> dict[fx.Node, list[float]]:
    """Returns the share of the squared output that each error adds, alone, to first order.

    Args:
        graph_module: The float network.
        errors: By node, of each option. The node's output has the shape of the error.
        batches: Calls of the model.
        seed: Of the random signs.
        show_progress: Show a bar.
    """
    totals = {node: [0.0] * len(options) for node, options in errors.items()}
    probes = _probes(graph_module, set(errors), batches, seed)
    for batch, (inputs, gradients) in zip(track(batches, "sensitivity", show=show_progress), probes, strict=True):
        rows = batch_size(batch, layout_of(graph_module))
        with torch.no_grad():
            for node, gradient in gradients.items():
                for index, error in enumerate(errors[node]):
                    product = gradient * error(inputs[node])
                    # Products of different samples are independent; of a tensor that mixes them all count as one.
                    by_sample = product.reshape(rows, -1) if product.shape[0] % rows == 0 else product.reshape(1, -1)
                    totals[node][index] += by_sample.sum(1, dtype=torch.float64).square().sum().item()
    return {node: [total / len(batches) for total in options] for node, options in totals.items()}


def squared_gradients(
    graph_module: fx.GraphModule, nodes: Iterable[fx.Node], batches: Sequence[ModelInputs], *, seed: int = 0
) -> Iterator[dict[fx.Node, Tensor]]:
    """Yields for each batch the diagonal of the Hessian of the squared error of the output by what each node gives.

    It is estimated with one probe, (rᵀ J)²; nodes that the output does not depend on are left out.

    Args:
        graph_module: The float network.
        nodes: Whose outputs.
        batches: Calls of the model.
        seed: Of the random signs.
    """
    for _, gradients in _probes(graph_module, set(nodes), batches, seed):
        yield {node: gradient.square() for node, gradient in gradients.items()}


def _probes(
    graph_module: fx.GraphModule, nodes: set[fx.Node], batches: Sequence[ModelInputs], seed: int
) -> Iterator[tuple[dict[fx.Node, Tensor], dict[fx.Node, Tensor]]]:
    """Yields for each batch what the nodes read, and rᵀ J by what they give, where the output depends on it."""
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        run = _Differentiable(graph_module, nodes)
        with torch.enable_grad():
            probe = _probe(run.run(*flat_inputs(graph_module, *batch)), generator)
            outputs = list(run.outputs.values())
            # Where whole numbers alone are returned no small error reaches them.
            gradients = torch.autograd.grad(probe, outputs, allow_unused=True) if probe.requires_grad else [None] * len(outputs)
        found = {node: gradient for node, gradient in zip(run.outputs, gradients, strict=True) if gradient is not None}
        yield run.inputs, found


class _Differentiable(fx.Interpreter):
    """Runs a graph and keeps what some nodes read and give, the latter for derivatives."""

    def __init__(self, graph_module: fx.GraphModule, nodes: set[fx.Node]) -> None:
        super().__init__(graph_module)
        self._nodes = nodes
        self.inputs, self.outputs = dict[fx.Node, Tensor](), dict[fx.Node, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n not in self._nodes:
            return result
        (x, *_), _ = self.fetch_args_kwargs_from_env(n)
        self.inputs[n] = x.detach()
        # A copy: a quantizer that is switched off gives its very input, whose other readers must not be counted here.
        self.outputs[n] = result.clone() if result.requires_grad else result.detach().requires_grad_()
        return self.outputs[n].clone()


def _probe(output: Any, generator: torch.Generator) -> Tensor:
    """Returns Σ r y over all outputs y that have derivatives, with random signs r, each output in units of its own norm."""
    floats = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    parts = []
    for leaf in floats:
        signs = torch.randint(2, leaf.shape, generator=generator).to(leaf) * 2 - 1
        norm = leaf.detach().double().square().sum().sqrt().clamp_min(1e-30)
        parts.append((signs * leaf).sum(dtype=torch.float64) / (norm * len(floats) ** 0.5))
    return torch.stack(parts).sum() if parts else torch.zeros(())
