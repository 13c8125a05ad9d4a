"""The output error from quantizing one tensor or weight alone, for each of its candidate bit widths."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.data.rows import Layout, batch_size, split_rows
from qpass.graph.signature.input_dims import layout_of, takes_any_rows
from qpass.nn import QuantizedLayer
from qpass.passes.analysis.bit_widths import BitWidthOptions
from qpass.passes.analysis.reference import float_reference
from qpass.passes.analysis.sensitivity import ErrorFunction, output_errors
from qpass.passes.analysis.token_weights import ROWS_OF_A_PROBE
from qpass.quantizers import Quantizer
from qpass.runtime.storage import Storage


def tensor_errors(
    graph_module: fx.GraphModule,
    tensors: Sequence[BitWidthOptions],
    batches: Sequence[ModelInputs],
    *,
    samples: int,
    seed: int = 0,
    storage: Storage | None = None,
    show_progress: bool = False,
) -> list[dict[int, float]]:
    """Returns each option's first-order error by bit width, summed over all calls of its quantizer.

    Args:
        graph_module: A quantized graph.
        tensors: Its tensors and weights with their candidates.
        batches: Model inputs.
        samples: How many of their samples to use, evenly spread.
        seed: Random seed of the signs that probe the output.
        storage: Where tensors saved for the backward pass are kept; None keeps them in memory.
        show_progress: Show a progress bar.
    """
    reference = float_reference(graph_module)
    twins = dict(zip(graph_module.graph.nodes, reference.graph.nodes, strict=True))
    nodes = {
        twins[node]: [_error_of(reference, tensor.target, fit) for fit in tensor.fits.values()]
        for tensor in tensors
        for node in tensor.nodes
    }
    rows = ROWS_OF_A_PROBE if takes_any_rows(graph_module) else None
    some = some_batches(batches, samples, rows, layout_of(graph_module))
    found = output_errors(reference, nodes, some, seed=seed, storage=storage, show_progress=show_progress)
    return [
        {
            bits: sum(found[twins[node]][index] for node in tensor.nodes)
            for index, bits in enumerate(tensor.fits)
        }
        for tensor in tensors
    ]  # fmt: skip


def some_batches(
    batches: Sequence[ModelInputs], samples: int, rows: int | None, layout: Layout = None
) -> Sequence[ModelInputs]:
    """Returns evenly spread batches of ``rows`` samples (None: unsplit), enough for ``samples``, or all."""
    parts = list(batches)
    if rows is not None:
        smallest = [min(rows, batch_size(batch, layout)) for batch in batches]
        parts = [part for batch, size in zip(batches, smallest, strict=True) for part in split_rows(batch, size, layout=layout)]
    wanted = -(-samples // batch_size(parts[0], layout))
    return parts if wanted >= len(parts) else [parts[index * len(parts) // wanted] for index in range(wanted)]


def _error_of(reference: fx.GraphModule, target: str, fit: Quantizer) -> ErrorFunction:
    layer = reference.get_submodule(target)
    if not isinstance(layer, QuantizedLayer):
        return lambda x: fit(x) - x

    def product(x: Tensor) -> Tensor:
        weight = layer.effective_weight().detach()
        # Computed on demand: for all layers at once, it would be another copy of the model.
        return layer.product(x, fit(weight) - weight)

    return product
