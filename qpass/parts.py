"""Parts of a model whose whole cannot be captured: their real inputs, the graphs in their place, the sizes these hold for."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.data import KeptBatches, ModelInputs
from qpass.data.batches import batch_size
from qpass.errors import UnsupportedError
from qpass.graph import info
from qpass.storage import Storage
from qpass.trace import trace


def record_calls(
    model: nn.Module, names: Sequence[str], batches: Sequence[ModelInputs], storage: Storage | None = None
) -> dict[str, KeptBatches]:
    """Runs the model and returns what each of its modules was called with, but for calls without a row.

    Args:
        model: The whole.
        names: Paths of the modules.
        batches: Calls of the model.
        storage: Where the calls lie; None is in memory.
    """
    storage = Storage() if storage is None else storage
    recorded = {name: KeptBatches(storage) for name in names}

    def record(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            call = ModelInputs(args, dict(kwargs))
            if batch_size(call):
                recorded[name].append(call)

        return model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)

    handles = [record(name) for name in names]
    try:
        with torch.no_grad():
            for batch in batches:
                model(*batch.args, **batch.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return recorded


def trace_part(module: nn.Module, name: str, calls: KeptBatches) -> tuple[fx.GraphModule, KeptBatches]:
    """Captures a part, open in the sizes that its calls differ in where it can be.

    Args:
        module: The part.
        name: Its path in the model.
        calls: What it was called with.

    Returns:
        The graph, and the calls that it holds for: where sizes cannot be open, those of the most frequent sizes, and of
        others where it computes the same.
    """
    counts = Counter(_sizes(call) for call in calls)
    common, _ = counts.most_common(1)[0]
    first = {size: next(call for call in calls if _sizes(call) == size) for size in counts}
    if len(counts) == 1:
        return trace(module, *first[common]), calls
    graph_module = trace(module, *first[common], open_sizes=_differing(calls))
    held = {size for size, call in first.items() if _fits_open(graph_module, call) and _agree(graph_module, module, call)}
    used = calls.only(lambda call: _sizes(call) in held)
    if info(graph_module)["bound_sizes"] or len(used) < len(calls):
        info(graph_module)["sizes"] = sorted(held)
    if len(used) < len(calls):
        warnings.warn(
            f"{name}: its sizes cannot be open: it holds for {_texts(held)}, which {len(used)} of {len(calls)} calls have",
            stacklevel=5,
        )
    return graph_module, used


def _agree(graph_module: fx.GraphModule, module: nn.Module, call: ModelInputs) -> bool:
    """Tells whether a graph gives what its module gives: traced at another size, it may have taken another branch."""
    try:
        with torch.no_grad():
            found, expected = (model(*call.args, **call.kwargs) for model in (graph_module, module))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    except (RuntimeError, AssertionError, ValueError, TypeError):
        return False
    return True


def put_back(model: nn.Module, name: str, part: nn.Module) -> None:
    """Lets another module take the place of the one at a path."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, part)


def parts_of(model: nn.Module) -> dict[str, fx.GraphModule]:
    """Returns the quantized graphs inside a model, by path; a graph itself is not inside."""
    return {
        name: module
        for name, module in model.named_modules()
        if name and isinstance(module, fx.GraphModule) and info(module).get("stage") == "frozen"
    }


def refuse_other_sizes(part: fx.GraphModule) -> None:
    """Lets a graph refuse calls with sizes that it does not hold for."""
    part.register_forward_pre_hook(_check_call, with_kwargs=True)


def _check_call(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert isinstance(part, fx.GraphModule)
    check_sizes(part, ModelInputs(args, kwargs))


def check_sizes(graph_module: fx.GraphModule, call: ModelInputs) -> None:
    """Refuses a call with sizes that a graph does not hold for.

    Raises:
        UnsupportedError: Naming the sizes that it holds for.
    """
    sizes = info(graph_module).get("sizes") or ()
    if _sizes(call) in sizes if sizes else _fits_open(graph_module, call):
        return
    raise UnsupportedError(
        f"got {_text(_sizes(call))}",
        where=type(graph_module).__name__,
        expected=_texts(sizes or [_sizes(ModelInputs(*info(graph_module)["example"]))]),
        hint="resize or pad the inputs to such a size, or quantize this part from inputs of the other size",
    )


def _tensors(call: ModelInputs) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tuple(call)) if isinstance(leaf, Tensor)]


def _sizes(call: ModelInputs) -> tuple[tuple[int, ...], ...]:
    """Returns the shape of every tensor without the batch."""
    return tuple(tuple(tensor.shape[1:]) for tensor in _tensors(call))


def _fits_open(graph_module: fx.GraphModule, call: ModelInputs) -> bool:
    """Tells whether a call has the example's sizes in all dims that are not open."""
    held, given = _sizes(ModelInputs(*info(graph_module)["example"])), _sizes(call)
    open_sizes = info(graph_module).get("open_sizes") or [()] * len(held)
    return len(held) == len(given) and all(
        len(a) == len(b) and all(x == y or dim in dims for dim, (x, y) in enumerate(zip(a, b, strict=True), 1))
        for a, b, dims in zip(held, given, open_sizes, strict=True)
    )


def _differing(calls: Sequence[ModelInputs]) -> list[tuple[int, ...]]:
    """Returns, for each tensor of a call, the dims behind the batch in which calls differ."""
    return [_differing_dims(shapes) for shapes in zip(*(_sizes(call) for call in calls), strict=True)]


def _differing_dims(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    if len({len(shape) for shape in shapes}) > 1:
        return ()
    return tuple(dim for dim, sizes in enumerate(zip(*shapes, strict=True), 1) if len(set(sizes)) > 1)


def _text(sizes: Sequence[Sequence[int]]) -> str:
    return ", ".join("(batch, " + ", ".join(map(str, size)) + ")" for size in sizes)


def _texts(all_sizes: Iterable[tuple[tuple[int, ...], ...]]) -> str:
    return " or ".join(_text(sizes) for sizes in sorted(all_sizes))
