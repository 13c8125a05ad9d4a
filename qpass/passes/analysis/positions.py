"""Products that compute positions or angles. They stay float: an 8-bit error would span whole periods.

Positions: no float input reaches the product, only sizes, constants and integers that are not
looked up in a table.
Angles: only sines and cosines read the result, or, if the product multiplies coordinates, an
exponential.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from qpass.graph.edit import MOVEMENT_OPS, aten, dtype_of, is_call

POSITIONS = "no float input reaches it: positions, or a query that is learned"
ANGLES = "it computes angles: its result only goes into sin, cos or an exponential of positions"

_PRODUCTS = (aten.linear, aten.matmul, aten.bmm, aten.mm, aten.addmm, aten.baddbmm, aten.conv1d, aten.conv2d, aten.conv3d)
#: Table lookups by integers. Their output is data, such as the words of a text.
_LOOK_UPS = (aten.embedding.default, aten.index.Tensor, aten.index_select.default, aten.gather.default, aten.take.default)
#: Operators that use only the shape of a tensor.
_OF_SHAPES = (
    aten.sym_size,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.empty_like,
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
)
_ANGLE_READERS = (aten.sin.default, aten.cos.default, aten.polar.default)
#: Operators whose output is still an angle if their input is one.
_KEEP_ANGLES = (
    *(getattr(op, form) for op in (aten.mul, aten.add, aten.sub, aten.div) for form in ("Tensor", "Scalar")),
    *(aten.neg.default, aten.rsub.Scalar, aten.slice.Tensor, aten.select.int, aten.cat.default, aten.stack.default),
    *(aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, operator.getitem),
    *(aten.to.dtype, aten._to_copy.default, aten.repeat.default, aten.flip.default, aten.index.Tensor),
    *(aten.pow.Tensor_Scalar, aten.square.default, aten.abs.default),
    *(aten.sigmoid.default, aten.tanh.default, aten.clamp.default, aten.remainder.Scalar, aten.remainder.Tensor),
)
#: An exponential that feeds one of these is part of a softmax or a softplus.
_NORMALIZATIONS = (aten.sum, aten.cumsum, aten.log1p)


def float_products(graph_module: fx.GraphModule) -> dict[fx.Node, str]:
    """Returns the products that compute positions or angles, each with the reason it stays float."""
    products = [node for node in graph_module.graph.nodes if _is_product(node)]
    reached = _reached(graph_module, _is_data_input)
    if not reached.intersection(products):  # integers are the only data
        reached = _reached(graph_module, lambda node: node.op == "placeholder")
    found = {node: POSITIONS for node in products if node not in reached}
    processed = _behind(products)
    for node in reversed(products):
        if node not in found and _only_angles(node, node in processed, found):
            found[node] = ANGLES
    return found


def _is_product(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "overloadpacket", None) in _PRODUCTS


def _is_data_input(node: fx.Node) -> bool:
    """Returns whether an input holds data rather than positions. Images may be uint8."""
    return node.op == "placeholder" and dtype_of(node) not in (torch.int64, torch.int32, torch.bool, None)


def _reached(graph_module: fx.GraphModule, is_source: object) -> set[fx.Node]:
    """Returns the nodes whose values depend on the values of data inputs."""
    reached, numbers = set[fx.Node](), set[fx.Node]()
    for node in graph_module.graph.nodes:
        inputs = set(node.all_input_nodes)
        if getattr(node.target, "overloadpacket", None) in _OF_SHAPES:
            continue
        if is_source(node) or inputs & reached or (is_call(node, *_LOOK_UPS) and inputs & numbers):  # type: ignore[operator]
            reached.add(node)
        elif node.op == "placeholder" or inputs & numbers:
            numbers.add(node)
    return reached


def _behind(products: list[fx.Node]) -> set[fx.Node]:
    """Returns all nodes downstream of a product."""
    behind, stack = set[fx.Node](), list(products)
    while stack:
        readers = [user for user in stack.pop().users if user not in behind]
        behind.update(readers)
        stack.extend(readers)
    return behind


def _only_angles(product: fx.Node, processed: bool, floats: dict[fx.Node, str]) -> bool:
    """Returns whether a product feeds only sines, cosines, exponentials and other such products.

    Args:
        product: The product.
        processed: Whether it is downstream of another product. Its exponentials are then not of
            positions.
        floats: Products that are known to stay float.
    """
    ends, seen, stack = 0, set[fx.Node](), [product]
    while stack:
        for user in stack.pop().users:
            if user in seen or is_call(user, aten.sym_size.int):
                continue
            seen.add(user)
            if is_call(user, *_ANGLE_READERS) or user in floats or (not processed and _is_free_exponential(user)):
                ends += 1
            elif is_call(user, *_KEEP_ANGLES, *MOVEMENT_OPS):
                stack.append(user)
            else:
                return False
    return ends > 0


def _is_free_exponential(node: fx.Node) -> bool:
    return is_call(node, aten.exp.default, aten.exp2.default) and not any(map(_normalizes, node.users))


def _normalizes(node: fx.Node) -> bool:
    """Returns whether an exponential's reader makes it a softmax, a softplus or a sigmoid."""
    adds_number = is_call(node, aten.add.Tensor) and not all(isinstance(term, fx.Node) for term in node.args)
    return adds_number or getattr(node.target, "overloadpacket", None) in _NORMALIZATIONS
