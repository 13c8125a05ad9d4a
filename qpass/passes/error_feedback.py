"""fitted -> fitted: rounds weights so that each layer's output, not each weight, stays near the float one.

Papers: GPTQ (https://arxiv.org/abs/2210.17323), GPTAQ (https://arxiv.org/abs/2504.02692).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from qpass.data import ModelInputs
from qpass.graph import info
from qpass.nn import QuantizedConv2d, QuantizedLayer, ResidualFactor
from qpass.passes.base import Pass
from qpass.passes.reference import reference_of
from qpass.passes.side_by_side import SideBySide
from qpass.progress import track
from qpass.rounding import compensate_rounding

#: Candidates for GPTAQ's α: how far a layer follows the float network's inputs.
DRIFT_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


class RoundWithFeedback(Pass):
    """Goes through the layers in order, each behind those before it: its weights become such that rounding to nearest is best.

    Its bias takes the mean of the error that is left. How far a layer also makes up for what the layers before it did to its
    input is chosen among ``DRIFT_SHARES``, by the error of its output on every fourth batch, which is not rounded on.

    Args:
        batches: Calls of the model; empty leaves everything as it is.
        show_progress: Show a bar.
    """

    takes, gives = "fitted", "fitted"

    def __init__(self, batches: Sequence[ModelInputs], *, show_progress: bool = False) -> None:
        self.batches, self.show_progress = batches, show_progress

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``. Weights change, the graph does not."""
        if not self.batches or info(graph_module).get("rounded_with_feedback"):
            return False
        info(graph_module)["rounded_with_feedback"] = True
        reference = reference_of(graph_module)
        runs, floats = SideBySide(graph_module, self.batches), SideBySide(reference, self.batches)
        nodes = list(zip(graph_module.graph.nodes, reference.graph.nodes, strict=True))[:-1]
        with torch.no_grad():
            for node, twin in track(nodes, "round", show=self.show_progress):
                layer = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
                if isinstance(layer, QuantizedLayer) and layer.quantizer is not None and not isinstance(layer, ResidualFactor):
                    _round(layer, runs.values(node.args[0]), floats.values(twin.args[0]))
                runs.step(node)
                floats.step(twin)
        return False


def _round(layer: QuantizedLayer, inputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert layer.quantizer is not None
    pairs = [(_rows(layer, x).double(), _rows(layer, y).double()) for x, y in zip(inputs, wanted, strict=True)]
    held = pairs[3::4] or pairs
    learned = [pair for index, pair in enumerate(pairs) if index % 4 != 3]
    weight = layer.effective_weight()
    matrix = weight.flatten(1)
    transposed = matrix.T.double()
    gram, drift = sum(x.T @ x for x, _ in learned), sum((y - x).T @ x for x, y in learned)
    assert isinstance(gram, Tensor)
    assert isinstance(drift, Tensor)
    shares = DRIFT_SHARES if bool(drift.any()) else (0.0,)
    candidates = compensate_rounding(matrix, layer.quantizer, gram, drift, shares=shares)
    rounded = [layer.quantizer(candidate).double() for candidate in candidates]
    outputs = [(x, y @ transposed) for x, y in held]
    errors = [sum((x @ w.T - output).square().sum().item() for x, output in outputs) for w in rounded]
    best = errors.index(min(errors))
    if layer.bias is not None:
        x, y = (torch.cat(side).mean(0) for side in zip(*learned, strict=True))
        layer.bias += (y @ transposed - x @ rounded[best].T).float()
    weight.copy_(candidates[best].reshape(weight.shape))


def _rows(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """Returns what the layer's weight is multiplied with, one row a token or window: (rows, in)."""
    if isinstance(layer, QuantizedConv2d):
        return F.unfold(x, layer.patch, stride=layer.patch).transpose(1, 2).flatten(0, 1)
    return x.flatten(0, -2)
