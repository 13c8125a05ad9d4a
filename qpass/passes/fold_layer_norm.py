"""fitted -> fitted: folds per-channel LayerNorm output scales into the LayerNorm and its Linears.

Paper: RepQ-ViT, https://arxiv.org/abs/2212.08254, section 3.2. The median target is DopQ-ViT's
(arXiv 2408.03291).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qpass.config.fields import choice
from qpass.config.options import FoldTarget, QuantizerName
from qpass.graph.edit import (
    add_constant,
    add_module,
    argument,
    aten,
    called_module,
    calls,
    describe,
    get_constant,
    get_plan,
    input_list,
    is_call,
    module_path,
    shape_of,
)
from qpass.graph.rewrite import Decline, NearMatch
from qpass.nn import QuantizedLinear
from qpass.passes.analysis.reference import Reference
from qpass.passes.base import Pass
from qpass.passes.plan import LayerPlan
from qpass.quantizers import Codebook, Uniform

#: Quantizers that may have a scale and zero point per channel.
_FOLDED = (QuantizerName.UNIFORM, QuantizerName.CODEBOOK)


class FoldLayerNorm(Pass):
    """Replaces the per-channel scales and zero points of a LayerNorm's output by a single pair.

    With s, z per channel, targets s̃, z̃ for the layer, r1 = s / s̃ and r2 = z - z̃:

    γ̃ = γ / r1, β̃ = (β + s r2) / r1, W̃ = W diag(r1), b̃ = b - W (s r2).

    The float function is unchanged. Quantizing the new LayerNorm output with (s̃, z̃) gives exactly the
    codes of the old per-channel quantization, since z̃ is an integer. The quantizers of the changed
    weights are refitted. The float network that ``KeepReference`` kept is folded too.

    Args:
        target: s̃ is the ``"mean"`` or the ``"median"`` of the channels' scales. z̃ is the rounded mean
            of their zero points for either: DopQ-ViT defines its median for scales alone.
        reference: The float network beside the graph, if any.

    Raises:
        ConfigError: For another target.
    """

    takes, gives = "fitted", "fitted"
    keeps_function = True

    def __init__(self, target: str, reference: Reference | None = None) -> None:
        self.target = choice(FoldTarget)(target, "target")
        self.reference = Reference() if reference is None else reference

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        norms = channel_wise_norms(graph_module)
        for norm, quantizers in norms.items():
            self._fold(graph_module, norm, quantizers)
        if (floats := self.reference.graph) is not None and floats is not graph_module:
            self(floats)
        return bool(norms)

    def _fold(self, graph_module: fx.GraphModule, norm: fx.Node, quantizers: list[fx.Node]) -> None:
        channel = graph_module.get_submodule(str(quantizers[0].target))
        assert isinstance(channel, (Uniform, Codebook))
        grid = channel.grid if isinstance(channel, Codebook) else channel
        scale, zero_point = channel.scale.double(), channel.zero_point.double()
        target_scale = (scale.mean() if self.target == FoldTarget.MEAN else scale.median()).float().double()
        target_zero = zero_point.mean().round().clamp(grid.code_min, grid.code_max)
        ratio, shift = scale / target_scale, scale * (zero_point - target_zero)

        gamma = self._constant(graph_module, norm, 2, "weight", torch.ones_like(ratio))
        beta = self._constant(graph_module, norm, 3, "bias", torch.zeros_like(ratio))
        new_gamma = add_constant(graph_module, f"{norm.name}_folded_weight", (gamma / ratio).float(), norm)
        new_beta = add_constant(graph_module, f"{norm.name}_folded_bias", ((beta + shift) / ratio).float(), norm)
        norm.args = (norm.args[0], norm.args[1], new_gamma, new_beta, *norm.args[4:])
        norm.kwargs = {key: value for key, value in norm.kwargs.items() if key not in ("weight", "bias")}
        graph_module.delete_submodule(str(quantizers[0].target))
        for node in quantizers:
            layer_wise = channel.layer_wise(target_scale, target_zero)
            layer_wise.enabled = channel.enabled
            node.target = add_module(graph_module, f"{node.args[0].name}_quantizer", layer_wise)  # type: ignore[union-attr]
            for reader in node.users:
                linear = graph_module.get_submodule(str(reader.target))
                assert isinstance(linear, QuantizedLinear)
                linear.rescale_input(ratio, shift)

    @staticmethod
    def _constant(graph_module: fx.GraphModule, node: fx.Node, index: int, name: str, default: Tensor) -> Tensor:
        value = get_constant(graph_module, argument(node, index, name))
        return default.double() if value is None else value.double()


def channel_wise_norms(graph_module: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """Returns the LayerNorms with per-channel output scales, each with its quantizer calls (one module)."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        module = called_module(graph_module, node)
        if isinstance(module, (Uniform, Codebook)) and module.axis is not None:
            source = node.args[0]
            while not is_call(source, aten.layer_norm.default):
                source = source.args[0]
            found.setdefault(source, []).append(node)
    return found


def foldable_layer_norms(
    graph_module: fx.GraphModule,
) -> tuple[dict[fx.Node, list[tuple[fx.Node, fx.Node]]], tuple[NearMatch, ...]]:
    """Returns the LayerNorms that can be folded, and the others.

    The former are over the last dim and read only by Linears with equal input quantization. Each
    comes with its (Linear, operand of the Linear) pairs, each of the latter with the reason.
    Operators in between may move tokens, but not channels.
    """
    found, declined = dict[fx.Node, list[tuple[fx.Node, fx.Node]]](), list[NearMatch]()
    for node in calls(graph_module, aten.layer_norm.default):
        try:
            found[node] = _linear_readers(node)
        except Decline as reason:
            declined.append(NearMatch("fold_layer_norm", node.name, module_path(node), str(reason)))
    return found, tuple(declined)


def _linear_readers(norm: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Returns the norm's readers, which must be Linears that are planned alike."""
    channels, *more = input_list(norm, 1)
    if more:
        raise Decline(f"it normalizes {1 + len(more)} dims")
    readers: list[tuple[fx.Node, fx.Node]] = []
    stack = [norm]
    while stack:
        operand = stack.pop(0)
        for user in operand.users:
            if keeps_last_dim(user, channels):
                stack.append(user)
            elif not is_call(user, aten.linear.default) or user.args[0] is not operand:
                raise Decline(f"{describe(user)} reads it, which is no Linear")
            elif not isinstance(get_plan(user), LayerPlan):
                raise Decline(f"{describe(user)} reads it, which stays float")
            else:
                readers.append((user, operand))
    specs = {get_plan(linear).operands[0].spec for linear, _ in readers}
    spec = next(iter(specs)) if len(specs) == 1 else None
    if spec is None or spec.quantizer not in _FOLDED or spec.symmetric:
        raise Decline("its readers do not all have the same uniform quantizer or codebook with a zero point")
    return readers


def keeps_last_dim(node: fx.Node, channels: int) -> bool:
    """Returns whether a call moves tokens but keeps each channel vector intact in the last dim."""
    shape = shape_of(node)
    if not shape or shape[-1] != channels:
        return False
    last = len(shape) - 1
    if is_call(node, aten.reshape.default, aten.view.default, aten.contiguous.default, aten.clone.default):
        return True
    if is_call(node, aten.permute.default):
        return bool(input_list(node, 1)[-1] in (last, -1))
    if is_call(node, aten.transpose.int):
        return not {last, -1} & set(node.args[1:3])
    if is_call(node, aten.roll.default):
        return len(node.args) > 2 and not {last, -1} & set(input_list(node, 2))
    if is_call(node, aten.select.int, aten.slice.Tensor):
        dim = node.args[1] if len(node.args) > 1 else 0
        return dim not in (len(shape_of(node.args[0]) or ()) - 1, -1)
    return False
