"""How much each row of a layer's output matters to the network's output, from a Hessian's diagonal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.data.rows import split_rows
from qpass.graph.edit import called_module
from qpass.graph.signature.input_dims import layout_of, takes_any_rows
from qpass.nn import QuantizedConv
from qpass.passes.analysis.sensitivity import Probe
from qpass.runtime.distributed import ALONE, Processes
from qpass.runtime.storage import Storage

#: Samples per run, if the graph takes any number of them.
ROWS_OF_A_PROBE = 4
#: Share of the weight that all rows get: where a single token matters, its few rows alone must not
#: determine a layer's weight.
EQUAL_SHARE = 0.5


def token_weights(
    reference: fx.GraphModule,
    layers: Sequence[fx.Node],
    batches: Sequence[ModelInputs],
    *,
    seed: int = 0,
    storage: Storage | None = None,
    processes: Processes = ALONE,
) -> dict[fx.Node, list[Tensor]]:
    """Returns the weights of each layer's output rows, by batch: (rows,), float64, with mean 1.

    A row's weight is the mean over channels of the Hessian's diagonal, which one backward pass
    estimates for all layers. Weights by channel would change nothing: each row of a layer's weight is
    rounded independently.

    Args:
        reference: The float network.
        layers: Linears and convolutions in it.
        batches: Model inputs.
        seed: Random seed of the signs.
        storage: Where tensors saved for the backward pass are kept; None keeps them in memory.
        processes: Processes that share the batches; the mean is over all of them.
    """
    found: dict[fx.Node, list[Tensor]] = {}
    rows, layout = ROWS_OF_A_PROBE if takes_any_rows(reference) else None, layout_of(reference)
    for batch in batches if layers else ():
        probe = Probe(reference, set(layers), seed=seed, storage=storage)
        parts: dict[fx.Node, list[Tensor]] = {}

        def keep(layer: fx.Node, gradient: Tensor, parts: dict[fx.Node, list[Tensor]] = parts) -> None:
            parts.setdefault(layer, []).append(_by_row(reference, layer, gradient.square()))

        for part in [batch] if rows is None else split_rows(batch, rows, keep_rest=True, layout=layout):
            probe.run(part, keep)
        for layer, squares in parts.items():
            found.setdefault(layer, []).append(torch.cat(squares))
    return {layer: _normalized(found[layer], processes) for layer in layers if layer in found}


def _by_row(reference: fx.GraphModule, layer: fx.Node, squares: Tensor) -> Tensor:
    """Returns the mean over output channels, in the order of the rows of the layer's product: (rows,)."""
    channels = 1 if isinstance(called_module(reference, layer), QuantizedConv) else -1
    return squares.double().mean(channels).flatten()


def _normalized(values: list[Tensor], processes: Processes) -> list[Tensor]:
    everything = torch.cat(values)
    total, count = processes.sum(torch.stack([everything.sum(), everything.new_tensor(len(everything))]))
    mean = total / count
    if mean == 0:
        return [torch.ones_like(value) for value in values]
    return [EQUAL_SHARE + (1 - EQUAL_SHARE) * value / mean for value in values]
