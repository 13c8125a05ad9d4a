"""Float64 outputs of quantized layers and integer products for given codes, with float32 error bounds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from qpass.backends.onnx_qdq.layer_outputs import PRODUCTS, SCALINGS
from qpass.backends.onnxruntime.perturbed import behind_quantizers
from qpass.backends.onnxruntime.tolerance import ROUNDING
from qpass.data import ModelInputs
from qpass.graph.edit import called_module, flat_inputs, input_node, is_call
from qpass.nn import QuantizedLayer
from qpass.passes.analysis.sources import quantizer_of
from qpass.quantizers import Log2, Quantizer

#: Allowed error of a float product whose terms have mixed signs, in roundings of the sum of their
#: magnitudes. If all n terms have the same sign, or the first half cancels the second, the error
#: grows as sqrt(n).
SUM_ROUNDINGS = 12.0
#: Roundings of the result itself: a rescaling, a bias and two conversions.
OWN_ROUNDINGS = 4.0


class Exact(NamedTuple):
    """Output of one layer.

    Attributes:
        value: The output, in float64.
        slack: Allowed error of a float32 result for each value, in float32.
    """

    value: Tensor
    slack: Tensor


class ExactOutputs:
    """Exact outputs of a few layers of a graph.

    Args:
        wide: A ``widened`` graph.
        ends: Nodes of ``layer_outputs(wide)`` to compute.
        inputs: Inputs of one call.
        codes: Codes of every quantizer.
    """

    def __init__(
        self, wide: fx.GraphModule, ends: Collection[fx.Node], inputs: ModelInputs, codes: Mapping[str, Tensor]
    ) -> None:
        self._wide = wide
        factors = [node for end in ends for node in factors_of(wide, end) if quantizer_of(wide, node)]
        self._run = _Moves(wide, behind_quantizers(wide, factors), codes)
        with torch.no_grad():
            self._run.run(*flat_inputs(wide, *inputs))

    def of(self, end: fx.Node, x: Tensor | None = None) -> Exact:
        """Returns the output of one of the ends.

        Args:
            end: The node.
            x: Input of its layer, if that is not codes.
        """
        with torch.no_grad():
            value, slack = self._sum(end, None if x is None else x.double())
            return Exact(value, slack.add_(value.abs(), alpha=OWN_ROUNDINGS).mul_(ROUNDING))

    def _sum(self, end: Any, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns a value, and the allowed error of its sums in roundings, as float32."""
        layer = called_module(self._wide, end)
        if isinstance(layer, QuantizedLayer):
            return self._layer(layer, end.args[0], x)
        if is_call(end, *PRODUCTS):
            a, b = (self._run.env[input_node(end, index)] for index in (0, 1))
            product = a @ b
            magnitudes = self._magnitude(input_node(end, 0), a) @ self._magnitude(input_node(end, 1), b)
            return product, _slack(product, magnitudes, a.shape[-1])
        if is_call(end, *SCALINGS):
            value, slack = self._sum(end.args[0], x)
            given: Any = end.args[1]
            number = self._run.fetch_attr(str(given.target)) if isinstance(given, fx.Node) else given
            scale: Any = end.target
            return scale(value, number), scale(slack, abs(number))
        first, second = (self._sum(node, x) for node in end.args)  # a layer and its residual branch
        return first[0] + second[0], first[1] + second[1]

    def _layer(self, layer: QuantizedLayer, node: fx.Node, x: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self._run.env[node] if x is None else x
        weight = layer.quantized_weight()
        product = layer.product(x, weight)
        slack = _slack(product, layer.product(self._magnitude(node, x), weight.abs().float()), weight[0].numel())
        if layer.bias is None:
            return product, slack
        is_image = weight.dim() > 2
        return product + layer.bias.reshape([-1, *[1] * (product.dim() - 2)] if is_image else [-1]), slack

    def _magnitude(self, node: fx.Node, x: Tensor) -> Tensor:
        """Returns an operand's magnitudes in float32.

        Those of logarithmic codes are enlarged: their error grows with the exponent.
        """
        quantizer, magnitude = quantizer_of(self._wide, node), x.abs()
        if isinstance(quantizer, Log2):
            exponent = (magnitude / quantizer.scale).log().abs().nan_to_num(posinf=0.0)
            magnitude = magnitude * (1 + exponent / SUM_ROUNDINGS)
        return magnitude.float()


def factors_of(graph_module: fx.GraphModule, end: Any) -> list[fx.Node]:
    """Returns the activations that a node of ``layer_outputs`` multiplies."""
    if isinstance(called_module(graph_module, end), QuantizedLayer):
        return [end.args[0]]
    if is_call(end, *PRODUCTS):
        return [input_node(end, 0), input_node(end, 1)]
    inner = end.args[:1] if is_call(end, *SCALINGS) else end.args
    return [node for part in inner for node in factors_of(graph_module, part)]


def _slack(product: Tensor, magnitudes: Tensor, terms: int) -> Tensor:
    root = math.sqrt(terms)
    return magnitudes.mul_(SUM_ROUNDINGS + root / 8).add_(product.abs(), alpha=root)


class _Moves(fx.Interpreter):
    """Runs the nodes between quantizers and the layers that read them, and keeps the results."""

    def __init__(self, wide: fx.GraphModule, needed: Collection[fx.Node], codes: Mapping[str, Tensor]) -> None:
        super().__init__(wide, garbage_collect_values=False)
        self._needed, self._codes = needed, codes

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node if it is needed."""
        return super().run_node(n) if n.op in ("placeholder", "output") or n in self._needed else None

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Decodes the given codes in place of a quantizer."""
        module = self.fetch_attr(str(target))
        if isinstance(module, Quantizer):
            return module.decode(self._codes[str(target)])
        return super().call_module(target, args, kwargs)
