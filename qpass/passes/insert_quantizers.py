"""calibrated -> quantized: carries out the plan with fitted quantizers and quantized layers."""

from __future__ import annotations

from torch import fx

from qpass.config import QuantSpec
from qpass.graph.edit import add_module, argument, copy_origin, copy_result, get_constant, get_plan, replace, set_plan
from qpass.nn import QuantizedConv, QuantizedLayer, QuantizedLinear
from qpass.passes.analysis.convolutions import windows_of
from qpass.passes.analysis.fitted import channel_quantizer, tensor_quantizer, weight_quantizer
from qpass.passes.analysis.sources import planned_operands, planned_outputs, quantization_point
from qpass.passes.analysis.statistics import Statistics
from qpass.passes.base import Pass
from qpass.passes.fold_layer_norm import foldable_layer_norms
from qpass.passes.plan import LayerPlan

_LAYERS = ("linear", "conv1d", "conv2d", "conv3d")


class InsertQuantizers(Pass):
    """Inserts one quantizer per tensor and spec, shared by its readers, and replaces the layers.

    A LayerNorm output whose channels were observed gets per-channel scales, which ``FoldLayerNorm``
    folds away later.

    Args:
        statistics: Calibration statistics.
    """

    takes, gives = "calibrated", "quantized"
    keeps_function = True

    def __init__(self, statistics: Statistics) -> None:
        self.statistics = statistics

    def run(self, graph_module: fx.GraphModule) -> bool:
        """See ``Pass.run``."""
        inserted: dict[tuple[fx.Node, QuantSpec, bool], fx.Node] = {}
        norms, _ = foldable_layer_norms(graph_module)
        channel_wise = self._channel_wise_modules(graph_module, norms)
        operands = [
            (node, plan, operand, quantization_point(node, plan, operand))
            for node, plan, operand in planned_operands(graph_module)
            if node.op == "call_function"
        ]
        operands = [operand for operand in operands if operand[-1].op != "call_module"]  # quantized by an earlier run
        for node, _, operand, point in operands:
            assert operand.spec is not None
            key = (point, operand.spec, operand.signed)
            if key not in inserted:
                name = channel_wise.get(point)
                if name is None:
                    quantizer = tensor_quantizer(graph_module, self.statistics, point, operand.spec, operand.signed)
                    name = add_module(graph_module, f"{point.name}_quantizer", quantizer)
                inserted[key] = self._insert(graph_module, point, name)
            self._redirect(node, operand.index, point, inserted[key])
        layers = [
            (node, plan)
            for node in graph_module.graph.nodes
            if isinstance(plan := get_plan(node), LayerPlan) and plan.kind in _LAYERS and node.op == "call_function"
        ]
        outputs = [node for node in planned_outputs(graph_module) if not _is_done(node)]
        for node in outputs:
            self._quantize_output(graph_module, node, get_plan(node).output)
        for node, plan in layers:
            self._replace_layer(graph_module, node, plan)
        return bool(operands or outputs or layers)

    def _channel_wise_modules(
        self, graph_module: fx.GraphModule, norms: dict[fx.Node, list[tuple[fx.Node, fx.Node]]]
    ) -> dict[fx.Node, str]:
        """Registers one quantizer per observed LayerNorm; returns its name for each operand it quantizes."""
        names = {}
        for norm, readers in norms.items():
            if norm in self.statistics.channels:
                quantizer = channel_quantizer(graph_module, self.statistics, norm, get_plan(readers[0][0]).operands[0].spec)
                name = add_module(graph_module, f"{norm.name}_quantizer", quantizer)
                names.update({operand: name for _, operand in readers})
        return names

    def _insert(self, graph_module: fx.GraphModule, point: fx.Node, name: str) -> fx.Node:
        with graph_module.graph.inserting_after(point):
            node = graph_module.graph.call_module(name, (point,))
        copy_origin(point, node)
        copy_result(point, node)
        return node

    def _quantize_output(self, graph_module: fx.GraphModule, node: fx.Node, spec: QuantSpec) -> None:
        quantizer = tensor_quantizer(graph_module, self.statistics, node, spec, signed=False)
        readers = list(node.users)
        quantized = self._insert(graph_module, node, add_module(graph_module, f"{node.name}_quantizer", quantizer))
        node.replace_all_uses_with(quantized, delete_user_cb=readers.__contains__)

    def _redirect(self, node: fx.Node, index: int, point: fx.Node, quantized: fx.Node) -> None:
        """Makes the operand read the quantized tensor through the movements between, each read once."""
        reader, operand = node, node.args[index]
        while operand is not point:
            assert isinstance(operand, fx.Node)
            reader, index, operand = operand, 0, operand.args[0]
        arguments = list(reader.args)
        arguments[index] = quantized
        reader.args = tuple(arguments)

    def _replace_layer(self, graph_module: fx.GraphModule, node: fx.Node, plan: LayerPlan) -> None:
        weight = get_constant(graph_module, node.args[1])
        bias = argument(node, 2, "bias")
        assert weight is not None
        quantizer = None
        if plan.weight is not None:
            quantizer = weight_quantizer(weight, plan.weight)
        windows = windows_of(node, weight) if plan.kind != "linear" else None
        if windows is None:
            layer: QuantizedLayer = QuantizedLinear(weight, get_constant(graph_module, bias), quantizer)
        else:
            own = {name: getattr(windows, name) for name in ("groups", "stride", "padding", "dilation")}
            layer = QuantizedConv(weight, get_constant(graph_module, bias), quantizer, **own)
        layer.requires_grad_(False)
        name = add_module(graph_module, f"{plan.path or node.name}_quantized", layer)
        with graph_module.graph.inserting_before(node):
            new = graph_module.graph.call_module(name, (node.args[0],))
        copy_origin(node, new)
        copy_result(node, new)
        set_plan(new, plan)
        self.statistics.replace(node, new)
        replace(node, new)


def _is_done(node: fx.Node) -> bool:
    """Returns whether an earlier run has quantized a layer's output."""
    return node.op == "call_module" or (
        get_plan(node).kind == "softmax" and all(user.op == "call_module" for user in node.users)
    )
