"""conv(x, W, padding="valid" or "same") -> conv(x, W, padding=numbers), if both ends get the same."""

from __future__ import annotations

from torch import fx

from qpass.graph.edit import argument, aten, call_like, calls, replace, shape_of

_BY_WORD = {op.padding: op.default for op in (aten.conv1d, aten.conv2d, aten.conv3d)}


def numeric_padding(graph_module: fx.GraphModule) -> int:
    """Makes the padding of convolutions numeric, the form that later passes match.

    Windows of even size stay, since their two ends are padded differently.
    """
    done = 0
    for node in calls(graph_module, *_BY_WORD):
        padding = _numbers(node)
        if padding is not None:
            x, weight, bias, stride = (argument(node, i, n, d) for i, n, d in _ARGUMENTS)
            dilation, groups = argument(node, 5, "dilation", 1), argument(node, 6, "groups", 1)
            dilation = [dilation] * len(padding) if isinstance(dilation, int) else dilation
            target = _BY_WORD[node.target]  # type: ignore[index]
            replace(node, call_like(graph_module, node, target, x, weight, bias, stride, padding, dilation, groups))
            done += 1
    return done


_ARGUMENTS = ((0, "input", None), (1, "weight", None), (2, "bias", None), (3, "stride", [1]))


def _numbers(node: fx.Node) -> list[int] | None:
    """Returns the padding at each end of each dim, or None if two ends differ."""
    word, shape = argument(node, 4, "padding", "valid"), shape_of(argument(node, 1, "weight"))
    if shape is None:
        return None
    dilation = argument(node, 5, "dilation", 1)
    each = dilation if isinstance(dilation, (list, tuple)) else [dilation]
    each = list(each) * (len(shape) - 2 if len(each) == 1 else 1)
    both = [0 if word == "valid" else d * (side - 1) for d, side in zip(each, shape[2:], strict=True)]
    return None if any(number % 2 for number in both) else [number // 2 for number in both]
