"""Weights and biases of Linears and convolutions: collects several changes, then writes them back."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qpass.graph.edit import add_constant, argument, aten, get_constant, is_call

_CONVOLUTIONS = (aten.conv1d, aten.conv2d, aten.conv3d)
_ARGUMENTS = ((1, "weight"), (2, "bias"))


class LayerWeights:
    """Holds weights (out, in) and biases (out,) in float64, to be changed in place.

    A layer without a bias gets one if it needs one. Layers that share a weight get one each.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self._graph_module = graph_module
        self._tensors: dict[fx.Node, tuple[Tensor, Tensor]] = {}

    def __getitem__(self, layer: fx.Node) -> tuple[Tensor, Tensor]:
        return self._tensors[layer]

    def read(self, layer: fx.Node) -> bool:
        """Reads weight and bias, once; returns whether the node is a layer with constant weight and bias."""
        if layer in self._tensors:
            return True
        if not _is_layer(layer):
            return False
        weight, bias = (get_constant(self._graph_module, argument(layer, *which)) for which in _ARGUMENTS)
        if weight is None or weight.dim() < 2 or (bias is None and argument(layer, *_ARGUMENTS[1]) is not None):
            return False
        if bias is not None and bias.shape != weight.shape[:1]:  # a Linear also takes biases that broadcast
            return False
        # Copy even float64 tensors: constants may belong to the caller.
        flat = weight.flatten(1).to(torch.float64, copy=True)
        self._tensors[layer] = (flat, flat.new_zeros(len(flat)) if bias is None else bias.to(torch.float64, copy=True))
        return True

    def write(self, change: str) -> bool:
        """Replaces the constants of every layer that changed; returns whether any did.

        Args:
            change: What happened to them; becomes part of their names.
        """
        changed = False
        for layer, tensors in self._tensors.items():
            old = [get_constant(self._graph_module, argument(layer, *which)) for which in _ARGUMENTS]
            weight, bias = (_like(old[0], tensor) for tensor in tensors)
            wanted = [weight, bias if old[1] is not None or bool(bias.any()) else None]
            if all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(old, wanted, strict=True)):
                continue
            changed = True
            constants = [self._add(layer, f"{change}_{name}", t) for (_, name), t in zip(_ARGUMENTS, wanted, strict=True)]
            layer.args = (layer.args[0], *constants, *layer.args[3:])
            layer.kwargs = {key: value for key, value in layer.kwargs.items() if key not in ("weight", "bias")}
        return changed

    def _add(self, layer: fx.Node, name: str, tensor: Tensor | None) -> fx.Node | None:
        return None if tensor is None else add_constant(self._graph_module, f"{layer.name}_{name}", tensor, layer)


def _is_layer(node: fx.Node) -> bool:
    return is_call(node, aten.linear.default) or getattr(node.target, "overloadpacket", None) in _CONVOLUTIONS


def _like(weight: Tensor | None, tensor: Tensor) -> Tensor:
    """Returns a tensor in a weight's dtype, and in its shape unless it is a bias."""
    assert weight is not None
    return tensor.to(weight.dtype).reshape(weight.shape if tensor.dim() > 1 else tensor.shape)
