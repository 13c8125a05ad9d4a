"""Checks that a graph captured with several rows also computes what the model does for one row.

torch.export silently assumes that no size is 1: a branch that a forward takes for one row is not in
the graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.errors import first_line
from qpass.graph.capture.size_lines import SizeLines, line_of
from qpass.graph.edit import copy_tensors, example_inputs
from qpass.graph.facts import facts_of
from qpass.graph.signature.input_dims import Dims, split_multiple
from qpass.graph.source_check.output_error import output_error
from qpass.graph.source_check.source import LEAST_BOUND
from qpass.runtime.torch_modes import kept_random_state


def why_not_one_row(
    model: nn.Module, graph_module: fx.GraphModule, lines: SizeLines, *, rows_only: bool = False, larger: Collection[str] = ()
) -> str:
    """Compares a model and its graph on one row, for all inputs together and for each alone.

    Does the same for every other open dim at size 1.

    Args:
        model: The caller's model, which may be changed.
        graph_module: Its graph, with an example of several rows.
        lines: Source lines recorded during capture.
        rows_only: Whether to leave other open sizes unchanged.
        larger: Open dims that are always larger than 1.

    Returns:
        Why the graph does not hold for size 1, with the source line; or '' if it does.
    """
    dims: Dims = facts_of(graph_module).dims
    example = example_inputs(graph_module)
    if not _agree(model, graph_module, example):
        return ""  # unrelated to size, such as random numbers: the source check reports it
    for symbols in _tried(dims, larger, rows_only=rows_only):
        args, kwargs = _cut(example, dims, symbols)
        size = f"{' and '.join(sorted(symbols))} of 1" if symbols != {"batch"} else "one row"
        try:
            expected = _run(model, args, kwargs)
        except Exception as error:  # a model may raise anything for inputs that it does not take
            if not symbols >= _row_symbols(dims):
                continue  # some inputs may have to agree, such as masks and texts
            return f"{line_of(error) or 'its forward'} does not run for {size}: {first_line(error)}"
        try:
            found = _run(graph_module, args, kwargs)
        except Exception:  # an operator may raise anything for sizes that it does not take
            found = None
        if not output_error(found, expected) <= LEAST_BOUND:
            return f"{lines.branching([1]) or 'its forward'} treats {size} differently from larger sizes"
    return ""


def _tried(dims: Dims, larger: Collection[str], *, rows_only: bool) -> Iterator[set[str]]:
    """Yields the sets of symbols to set to 1 together."""
    rows = _row_symbols(dims) - set(larger)
    if len(rows) > 1:
        yield rows
    found = {split_multiple(size)[1] for sizes in dims for size in sizes if isinstance(size, str)}
    others = {symbol for symbol in found - set(larger) if symbol.isidentifier() and not rows_only}
    for symbol in sorted(rows | others):
        yield {symbol}


def _row_symbols(dims: Dims) -> set[str]:
    return {sizes[0] for sizes in dims if sizes and isinstance(sizes[0], str) and sizes[0].isidentifier()}


def _cut(example: Any, dims: Dims, symbols: Collection[str]) -> Any:
    """Returns the example with some symbols set to 1; sizes that are multiples become the factor."""
    rest = iter(dims)

    def cut(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        for n, size in enumerate(next(rest)):
            factor, symbol = split_multiple(size) if isinstance(size, str) else (1, "")
            if symbol in symbols:
                leaf = leaf.narrow(n, 0, factor)
        return leaf

    return pytree.tree_map(cut, example)


def _agree(model: nn.Module, graph_module: fx.GraphModule, inputs: Any) -> bool:
    return output_error(_run(graph_module, *inputs), _run(model, *inputs)) <= LEAST_BOUND


def _run(model: nn.Module, args: Any, kwargs: Any) -> Any:
    own_args, own_kwargs = copy_tensors((args, kwargs))
    with kept_random_state():
        return model(*own_args, **own_kwargs)
