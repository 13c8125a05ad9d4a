"""Convolutions of a graph: their windows, and which products of them are faster on integers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from qpass.config import QuantConfig, QuantSpec
from qpass.config.options import Convolutions, PointwiseConvolutions
from qpass.graph.edit import argument, aten, input_node, is_call, shape_of
from qpass.passes.analysis.sources import quantization_point
from qpass.passes.plan import Declined, LayerPlan

#: Convolutions and their number of spatial dims.
CONVOLUTIONS = {
    getattr(op, form): dims
    for op, dims in ((aten.conv1d, 1), (aten.conv2d, 2), (aten.conv3d, 3))
    for form in ("default", "padding")
}
TRANSPOSED = {aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2, aten.conv_transpose3d.input: 3}
#: Minimum weights per output channel. With fewer, codes and a scale take as much space as floats.
LEAST_OF_A_CHANNEL = 4
#: Minimum multiply-adds per value of input and output. With fewer, converting them takes longer
#: than integers save.
LEAST_WORK = 32
#: Minimum input channels, unless there are this many output channels: kernels gather windows from
#: runs of so few bytes that this takes longer than the product.
LEAST_INPUTS, LEAST_OUTPUTS = 8, 64
#: Minimum channels of the groups of a grouped convolution that is not depthwise.
LEAST_CHANNELS = 16
#: Functions of single values between convolutions.
_FUNCTIONS = (
    *(aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default, aten.leaky_relu.default),
    *(aten.silu.default, aten.hardswish.default, aten.gelu.default, aten.sigmoid.default, aten.tanh.default),
)
#: The plan of each node; None if there is nothing to plan.
Plans = Mapping[fx.Node, LayerPlan | Declined | None]
_NUMBERS = ((3, "stride", 1), (4, "padding", 0), (5, "dilation", 1))


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of a convolution.

    Attributes:
        sides: Sizes of the window.
        stride: Steps of the window.
        padding: Zeros at each end of each spatial dim.
        dilation: Distances within a window.
        groups: Channel groups.
        channels: Input channels of a group.
    """

    sides: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    channels: int

    @property
    def pointwise(self) -> bool:
        """Whether each window is one point of an image or a volume, and every point has one."""
        return len(self.sides) > 1 and self.tile and set(self.sides) == {1}

    @property
    def tile(self) -> bool:
        """Whether the windows tile an input of fitting size."""
        apart = any(distance > 1 and side > 1 for distance, side in zip(self.dilation, self.sides, strict=True))
        return self.sides == self.stride and not any(self.padding) and not apart


def windows_of(node: fx.Node, weight: torch.Tensor) -> Windows | None:
    """Returns the windows of a convolution; None if they are not numbers, or without a batch dim."""
    dims = CONVOLUTIONS[node.target]  # type: ignore[index]
    shape = shape_of(node.args[0])
    if isinstance(argument(node, 4, "padding", 0), str) or shape is None or len(shape) != dims + 2:
        return None
    stride, padding, dilation = (_each(argument(node, i, n, d), dims) for i, n, d in _NUMBERS)
    return Windows(
        sides=tuple(weight.shape[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=argument(node, 6, "groups", 1),
        channels=weight.shape[1],
    )


def refusal(node: fx.Node, windows: Windows | None, choice: str) -> str:
    """Returns why a convolution is not quantized at all; "" if it is.

    Args:
        node: The convolution.
        windows: Its windows.
        choice: The recipe's ``Convolutions``.
    """
    if windows is None:
        return "its padding differs at the two ends of a dim, or its input has no batch dim"
    if windows.groups > 1 and windows.channels * math.prod(windows.sides) < LEAST_OF_A_CHANNEL:
        return f"under {LEAST_OF_A_CHANNEL} weights per channel, which take no less space as codes with a scale"
    if choice == Convolutions.PATCHES and not windows.tile:
        return "its windows overlap or are padded: not a patch embedding or 1x1 convolution"
    if choice == Convolutions.PATCHES and not _is_whole(node, windows):
        return "the image is not a whole number of patches"
    return ""


def float_input(node: fx.Node, windows: Windows, config: QuantConfig, plans: Plans) -> str:
    """Returns why only the weight of a convolution is quantized; "" if its input is quantized too.

    Args:
        node: The convolution.
        windows: Its windows.
        config: The recipe.
        plans: Plans of the nodes before it.
    """
    pointwise = windows.pointwise and config.pointwise_convolutions == PointwiseConvolutions.ALL
    # What is fastest was measured on CPUs; signed codes are for GPUs.
    every = config.convolutions == Convolutions.ALL or (config.signed_codes and config.convolutions == Convolutions.FASTEST)
    if pointwise or every or is_matmul(node, windows):
        return ""
    if config.convolutions == Convolutions.FASTEST:
        return _slower_on_integers(node, windows, plans)
    return "the recipe quantizes only weights of such convolutions"


def is_matmul(node: fx.Node, windows: Windows) -> bool:
    """Returns whether a convolution is lowered as a Linear over patches, or points of a sequence."""
    many = len(windows.sides) == 1 or max(windows.sides) > 1
    return many and windows.groups == 1 and windows.tile and _is_whole(node, windows)


def _is_whole(node: fx.Node, windows: Windows) -> bool:
    """Returns whether the input is a whole number of windows."""
    return not any(size % side for size, side in zip((shape_of(node.args[0]) or ())[2:], windows.sides, strict=True))


def _slower_on_integers(node: fx.Node, windows: Windows, plans: Plans) -> str:
    """Returns why a CPU computes a convolution faster in float; "" if it is faster on integers.

    ``benchmarks/convolutions.py`` measures both: see ``benchmarks/results/convolutions.md``.
    """
    if windows.groups > 1 and 1 < windows.channels < LEAST_CHANNELS:
        return f"groups of {windows.channels} channels, under {LEAST_CHANNELS}: float is faster"
    if windows.groups > 1:
        kind = "depthwise" if windows.channels == 1 else "grouped"
        return "" if _reads_integers(node, plans) else f"{kind} and not behind a convolution on integers: float is faster"
    if windows.channels < LEAST_INPUTS and (shape_of(node) or (0, 0))[1] < LEAST_OUTPUTS:
        return f"under {LEAST_INPUTS} input and {LEAST_OUTPUTS} output channels: float is faster"
    given, found = (math.prod((shape_of(each) or (1,))[1:]) for each in (node.args[0], node))
    work = found * windows.channels * math.prod(windows.sides) / max(given + found, 1)
    if work < LEAST_WORK and not _shares_input(node, plans):
        return f"{work:.3g} multiply-adds per value that it reads and writes, under {LEAST_WORK}: float is faster"
    return ""


def _shares_input(node: fx.Node, plans: Plans) -> bool:
    """Returns whether an earlier convolution on integers reads the same tensor: its codes are there."""
    return any(_is_on_integers(user, plans) for user in input_node(node, 0).users if user is not node)


def _is_on_integers(node: fx.Node, plans: Plans) -> bool:
    plan = plans.get(node)
    return node.target in CONVOLUTIONS and isinstance(plan, LayerPlan) and plan.operands[0].spec is not None


def _reads_integers(node: fx.Node, plans: Plans) -> bool:
    """Returns whether a convolution reads the output of one on integers, at most through a function of it.

    Integer kernels have the channels last. A float kernel among them moves its input and output.
    """
    source = input_node(node, 0)
    while is_call(source, *_FUNCTIONS):
        source = input_node(source, 0)
    return _is_on_integers(source, plans)


def requantized(plans: Plans) -> set[fx.Node]:
    """Returns the nodes whose outputs go into one quantizer and nowhere else, at most through a ReLU.

    Args:
        plans: The plan of every node of a graph.
    """
    specs: dict[fx.Node, set[tuple[QuantSpec, bool]]] = {}
    readers: dict[fx.Node, set[fx.Node]] = {}
    for node, plan in plans.items():
        for operand in plan.operands if isinstance(plan, LayerPlan) else ():
            if operand.spec is not None:
                assert isinstance(plan, LayerPlan)
                point = quantization_point(node, plan, operand)
                specs.setdefault(point, set()).add((operand.spec, operand.signed))
                readers.setdefault(point, set()).add(_reader_of(point, node, operand.index))
    found = set[fx.Node]()
    for point, kinds in specs.items():
        (_, signed), *others = kinds
        if not signed and not others and set(point.users) == readers[point]:
            found.add(point)
            if is_call(point, aten.relu.default) and len(input_node(point, 0).users) == 1:
                found.add(input_node(point, 0))
    return found


def _reader_of(point: fx.Node, node: fx.Node, index: int) -> fx.Node:
    """Returns the reader of a tensor through which a layer's operand comes from it."""
    reader, step = node, input_node(node, index)
    while step is not point:
        reader, step = step, input_node(step, 0)
    return reader


def _each(value: int | list[int], dims: int) -> tuple[int, ...]:
    """Expands a number or a list to one number per dim."""
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(numbers * dims if len(numbers) == 1 else numbers)
