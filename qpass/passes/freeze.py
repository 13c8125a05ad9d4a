"""fitted -> frozen: weights become integer codes, formulas become tables. Only deployed state remains.

Biases of convolutions with integer inputs become integers too, as kernels take them.
"""

from __future__ import annotations

from torch import fx

from qpass.errors import PassError
from qpass.graph.edit import aten, called_module, describe, is_call
from qpass.nn import QuantizedConv, QuantizedLayer
from qpass.passes.analysis.sources import quantizer_of
from qpass.passes.base import Pass
from qpass.passes.fold_layer_norm import channel_wise_norms
from qpass.quantizers import ByteTable, Codebook, LookUp, Quantizer


class Freeze(Pass):
    """Freezes every quantized layer and replaces codebooks and tabulated quantizers by lookup tables."""

    takes, gives = "fitted", "frozen"

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``.

        Raises:
            PassError: If a LayerNorm output still has per-channel scales, which an integer matmul
                cannot use.
        """
        for norm in channel_wise_norms(graph_module):
            raise PassError(f"{describe(norm)}: its output has a scale for each channel; run FoldLayerNorm first")
        layers = [module for module in graph_module.modules() if isinstance(module, QuantizedLayer)]
        tables = {
            name: ByteTable.of(module) if isinstance(module, Codebook) else LookUp.of(module)
            for name, module in graph_module.named_children()
            if isinstance(module, Codebook) or (isinstance(module, Quantizer) and module.tabulated)
        }
        for name, table in tables.items():
            setattr(graph_module, name, table)
        frozen = [layer for layer in layers if layer.freeze()]
        rounded = [node for node in graph_module.graph.nodes if _round_bias(graph_module, node)]
        return bool(frozen or tables or rounded)


def _round_bias(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Rounds the bias of a convolution that reads codes; returns whether it changed."""
    layer = called_module(graph_module, node)
    if not isinstance(layer, QuantizedConv) or not _feeds_quantizer(graph_module, node):
        return False
    scale = getattr(quantizer_of(graph_module, node.args[0]), "scale", None)
    return scale is not None and layer.round_bias(scale)


def _feeds_quantizer(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Returns whether a quantizer reads a node's output, at most through a ReLU."""
    readers = [reader for user in node.users for reader in (user.users if is_call(user, aten.relu.default) else [user])]
    return any(isinstance(called_module(graph_module, reader), Quantizer) for reader in readers)
