"""einsum("bhid,bhjd->bhij", q, k) -> matmul(q, permute(k)), for two factors.

With no index to sum over, it becomes an elementwise product. If no index is unique to one factor,
it becomes the sum of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from qpass.graph.edit import aten, call_like, get_constant, input_list, is_open, shape_of
from qpass.graph.fx_rule import fx_rule
from qpass.graph.rewrite import Decline


@dataclass(frozen=True)
class _Indices:
    """The index letters of the dims of both factors and of the result."""

    a: str
    b: str
    out: str

    @property
    def summed(self) -> str:
        """The indices of both factors that are summed over."""
        return "".join(i for i in self.a if i in self.b and i not in self.out)


@fx_rule(aten.einsum.default)
def matmul_from_einsum(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Rewrites an einsum of two factors, unless it is no product of two matrices."""
    factors = input_list(node, 1)
    if len(factors) == 1:
        return None
    if len(factors) != 2:
        raise Decline(f"an einsum of {len(factors)} factors is not turned into matmuls")
    a, b = factors
    return _product(graph_module, node, a, b, _parse(str(node.args[0]).replace(" ", ""), factors))


def _parse(equation: str, factors: Sequence[fx.Node]) -> _Indices:
    """Returns the indices of an einsum of two factors."""
    shapes = [shape_of(factor) for factor in factors]
    if any(shape is None for shape in shapes):
        raise Decline("the shapes of its factors are unknown")
    inputs, arrow, out = equation.partition("->")
    terms = inputs.split(",")
    extra = [
        len(shape or ()) - len(term.replace("...", "")) if "..." in term else 0
        for term, shape in zip(terms, shapes, strict=True)
    ]
    # Private letters stand for the dims of an ellipsis, counted from the last.
    hidden = "".join(chr(0x3B1 + i) for i in range(max(extra)))
    a, b = (term.replace("...", hidden[len(hidden) - count :]) for term, count in zip(terms, extra, strict=True))
    both = a + b
    rest = "".join(sorted(i for i in set(both) - set(hidden) if both.count(i) == 1))
    out = out.replace("...", hidden) if arrow else hidden + rest
    if len(set(a)) < len(a) or len(set(b)) < len(b):
        raise Decline("an index appears twice in one factor of its einsum")
    if any((i in a) != (i in b) and i not in out for i in both):
        raise Decline("its einsum sums over an index of one factor alone")
    sizes = dict(zip(a, shapes[0] or (), strict=True))
    if any(sizes.get(i, size) != size for i, size in zip(b, shapes[1] or (), strict=True)):
        raise Decline("its einsum repeats a factor along a dim of size 1")
    return _Indices(a, b, out)


def _product(graph_module: fx.GraphModule, node: fx.Node, a: fx.Node, b: fx.Node, indices: _Indices) -> fx.Node:
    left, right = _only(indices.a, indices.b), _only(indices.b, indices.a)
    if not indices.summed or not (left or right):
        return _elementwise(graph_module, node, a, b, indices)
    if get_constant(graph_module, a) is not None and not _shared(indices):
        a, b, indices, left, right = b, a, _Indices(indices.b, indices.a, indices.out), right, left
    batch, summed = _shared(indices), indices.summed
    moves = _Moves(graph_module, node)
    x = moves.permute(a, indices.a, batch + left + summed)
    y = moves.permute(b, indices.b, batch + summed + right)
    x = moves.group(x, len(batch + left), len(summed))
    y = moves.group(moves.group(y, len(batch + summed), len(right)), len(batch), len(summed))
    rows = left
    if batch:  # otherwise x keeps its dims, as a Linear's input does
        x, rows = moves.group(x, len(batch), len(left)), "*"
    product = call_like(graph_module, node, aten.matmul.default, x, y)
    product = moves.ungroup(product, len(batch + rows), moves.sizes(b, indices.b, right))
    if batch:
        product = moves.ungroup(product, len(batch), moves.sizes(a, indices.a, left))
    return moves.permute(product, batch + left + right, indices.out)


def _only(indices: str, others: str) -> str:
    return "".join(i for i in indices if i not in others)


def _shared(indices: _Indices) -> str:
    return "".join(i for i in indices.out if i in indices.a and i in indices.b)


def _elementwise(graph_module: fx.GraphModule, node: fx.Node, a: fx.Node, b: fx.Node, indices: _Indices) -> fx.Node:
    order, moves = indices.out + indices.summed, _Moves(graph_module, node)
    aligned = []
    for factor, own in ((a, indices.a), (b, indices.b)):
        factor = moves.permute(factor, own, "".join(i for i in order if i in own))
        for dim, index in enumerate(order):
            factor = factor if index in own else call_like(graph_module, node, aten.unsqueeze.default, factor, dim)
        aligned.append(factor)
    product = call_like(graph_module, node, aten.mul.Tensor, *aligned)
    summed = [len(indices.out) + dim for dim in range(len(indices.summed))]
    return call_like(graph_module, node, aten.sum.dim_IntList, product, summed) if summed else product


class _Moves:
    """Inserts data movement before a node, skipping operators that would move nothing."""

    def __init__(self, graph_module: fx.GraphModule, before: fx.Node) -> None:
        self._graph_module, self._before = graph_module, before

    def permute(self, x: fx.Node, have: str, want: str) -> fx.Node:
        """Reorders dims."""
        return x if have == want else self._call(aten.permute.default, x, [have.index(i) for i in want])

    def group(self, x: fx.Node, first: int, count: int) -> fx.Node:
        """Flattens ``count`` dims into one; inserts a dim if ``count`` is 0."""
        if count == 0:
            return self._call(aten.unsqueeze.default, x, first)
        return x if count == 1 else self._call(aten.flatten.using_ints, x, first, first + count - 1)

    def ungroup(self, x: fx.Node, dim: int, sizes: Sequence[int | fx.Node]) -> fx.Node:
        """Splits a grouped dim again."""
        if not sizes:
            return self._call(aten.squeeze.dim, x, dim)
        return x if len(sizes) == 1 else self._call(aten.unflatten.int, x, dim, list(sizes))

    def sizes(self, factor: fx.Node, indices: str, wanted: str) -> list[int | fx.Node]:
        """Returns the sizes of dims: numbers, or nodes for dynamic dims."""
        shape = shape_of(factor) or ()
        dims = [indices.index(i) for i in wanted]
        fixed = get_constant(self._graph_module, factor) is not None
        return [shape[d] if fixed or not is_open(factor, d) else self._call(aten.sym_size.int, factor, d) for d in dims]

    def _call(self, *what: object) -> fx.Node:
        return call_like(self._graph_module, self._before, *what)  # type: ignore[arg-type]
