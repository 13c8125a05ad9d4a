"""conv(x, W, padding="valid" or "same") -> conv(x, W, padding=numbers), if both ends get the same."""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import argument, aten, call_like, shape_of
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline

_BY_WORD = {op.padding: op.default for op in (aten.conv1d, aten.conv2d, aten.conv3d)}
_ARGUMENTS = ((0, "input", None), (1, "weight", None), (2, "bias", None), (3, "stride", [1]))


@fx_rule(*_BY_WORD)
def numeric_padding(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Makes the padding of a convolution numeric, the form that later passes match."""
    padding = _numbers(node)
    x, weight, bias, stride = (argument(node, i, n, d) for i, n, d in _ARGUMENTS)
    dilation, groups = argument(node, 5, "dilation", 1), argument(node, 6, "groups", 1)
    dilation = [dilation] * len(padding) if isinstance(dilation, int) else dilation
    target = _BY_WORD[node.target]  # type: ignore[index]
    return call_like(graph_module, node, target, x, weight, bias, stride, padding, dilation, groups)


def _numbers(node: fx.Node) -> list[int]:
    """Returns the padding at each end of each dim."""
    word, shape = argument(node, 4, "padding", "valid"), shape_of(argument(node, 1, "weight"))
    if shape is None:
        raise Decline("the shape of its weight is unknown")
    dilation = argument(node, 5, "dilation", 1)
    each = dilation if isinstance(dilation, (list, tuple)) else [dilation]
    each = list(each) * (len(shape) - 2 if len(each) == 1 else 1)
    both = [0 if word == "valid" else d * (side - 1) for d, side in zip(each, shape[2:], strict=True)]
    if any(number % 2 for number in both):
        raise Decline("its windows have an even size, so padding='same' differs at the two ends")
    return [number // 2 for number in both]
