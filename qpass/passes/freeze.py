"""fitted -> frozen: weights become integer codes, formulas become tables. Only deployed state remains."""

from __future__ import annotations

from torch import fx

from qpass.errors import PassError
from qpass.graph.edit import describe
from qpass.nn import QuantizedLayer
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
        return bool(frozen or tables)
