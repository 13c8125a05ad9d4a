"""nn.Module -> torch.fx.GraphModule of aten operators, with a dynamic batch where the model allows it."""

from __future__ import annotations

import copy
import inspect
import io
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.data.batches import batch_size
from qpass.errors import TraceError
from qpass.functionalize import functionalize
from qpass.graph import info, record_shapes
from qpass.refusals import refuse_flex_attention
from qpass.tensor_names import rename_tensors
from qpass.undisturbed import copy_tensors, undisturbed

#: Rows of the example batch: torch.export takes a size of 1 for a constant.
EXAMPLE_ROWS = 2


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    open_sizes: Sequence[tuple[int, ...]] = (),
) -> fx.GraphModule:
    """Captures a model in eval mode as a graph that shares nothing with it.

    Args:
        model: Any model that torch.export captures; left as it was.
        args: Positional example inputs, tensors with the batch first.
        kwargs: Example inputs by name.
        open_sizes: For each tensor of the inputs the dims, beside the batch, that shall be open to other sizes.

    Returns:
        A GraphModule with ``meta["qpass"]`` holding ``dynamic_batch``, the example inputs, which of ``open_sizes`` the
        model leaves open, and whether these are ``bound_sizes``, of which only some will do. Where the batch cannot be
        dynamic, a warning says so and the graph holds for batches as large as the example's.

    Raises:
        TraceError: If the model cannot be captured; names the module, the source line and what to do.
    """
    kwargs = dict(kwargs or {})
    with undisturbed(model), warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # and torch.export prints its partial graph when it fails
        example = _resize_batch((args, kwargs), EXAMPLE_ROWS)
        _run_once(model, *example)
        try:
            shapes = dynamic_shapes(model, *example, open_sizes)
            program = torch.export.export(model, *example, dynamic_shapes=shapes, strict=False)
            dynamic = True
        except Exception as why_fixed:  # torch.export raises many kinds
            dynamic, example, open_sizes = False, (args, kwargs), ()
            try:
                program = torch.export.export(model, *example, strict=False)
            except Exception as error:
                raise _explain(error, model) from error
            reason = _first_line(why_fixed)
        rename_tensors(program)
        graph_module = program.module()
    if not dynamic:
        rows = batch_size(example)
        warnings.warn(f"{type(model).__name__}: the batch is fixed at {rows}, it cannot be dynamic: {reason}", stacklevel=3)
    kept = {"dynamic_batch": dynamic, "open_sizes": _still_open(program, open_sizes), "bound_sizes": _bound(program)}
    return _own_graph(graph_module, type(model).__name__, example=example, **kept)


def _bound(program: torch.export.ExportedProgram) -> bool:
    """Tells whether the graph holds only for sizes that fulfil an equation, such as whole numbers of windows."""
    guards = getattr(program, "_guards_code", None)
    return guards is None or any("%" in guard or "==" in guard for guard in guards)


def _still_open(program: torch.export.ExportedProgram, open_sizes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Returns the dims that torch.export did not take for constants."""
    names = set(program.graph_signature.user_inputs)
    inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    return [
        tuple(dim for dim in dims if isinstance(tensor.shape[dim], torch.SymInt))
        for tensor, dims in zip(tensors, open_sizes, strict=False)
    ]


def _own_graph(exported: nn.Module, name: str, **kept: Any) -> fx.GraphModule:
    """Returns a plain functional GraphModule with its own tensors, without torch.export's guards."""
    assert isinstance(exported, fx.GraphModule)
    refuse_flex_attention(exported.graph)
    for node in list(exported.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):
            exported.graph.erase_node(node)
    graph_module = fx.GraphModule(copy.deepcopy(exported), exported.graph, class_name=name)
    graph_module.requires_grad_(False)
    info(graph_module).update(stage="traced", **kept)
    graph_module.eval()
    functionalize(graph_module)
    with torch.random.fork_rng():
        record_shapes(graph_module)
    return graph_module


def _resize_batch(inputs: tuple[Any, Any], rows: int) -> tuple[Any, Any]:
    """Cuts or repeats every tensor that has the batch as dim 0 to ``rows`` rows."""
    size = batch_size(inputs)

    def resize(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.dim() or leaf.shape[0] != size:
            return leaf
        return leaf.repeat(-(-rows // size), *[1] * (leaf.dim() - 1))[:rows].clone()

    resized: tuple[Any, Any] = pytree.tree_map(resize, inputs)
    return resized


def dynamic_shapes(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], open_sizes: Sequence[tuple[int, ...]] = ()
) -> Any:
    """Returns torch.export's dynamic_shapes: dim 0 of every tensor that has the batch there is one symbol.

    Open sizes are left to torch.export, which takes for constants what the model does not leave open.
    """
    batch, size = torch.export.Dim("batch", min=1), batch_size((args, kwargs))
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    open_dims = {id(tensor): dims for tensor, dims in zip(tensors, open_sizes, strict=False)}

    def mark(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return None
        has_batch = {0: batch} if leaf.dim() and leaf.shape[0] == size else {}
        return {**has_batch, **dict.fromkeys(open_dims.get(id(leaf), ()), torch.export.Dim.AUTO)} or None

    arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments  # *args and **kwargs come nested
    return pytree.tree_map(mark, dict(arguments))


def _run_once(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        args_, kwargs_ = copy_tensors((args, kwargs))
        model(*args_, **kwargs_)
    except Exception as error:
        shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        raise TraceError(
            f"the model does not run on inputs of shape {shapes}: {_first_line(error)}",
            where=type(model).__name__,
            expected="example inputs (or calibration batches) that the model's forward takes",
            hint="pass example_inputs= or transform_fn=",
        ) from error


def _explain(error: Exception, model: nn.Module) -> TraceError:
    """Names the innermost module of the model that was running, and its source line."""
    paths = {id(module): path for path, module in model.named_modules()}
    where = type(model).__name__
    for frame, line in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in paths and "torch/nn/modules" not in frame.f_code.co_filename:
            source = f"{Path(frame.f_code.co_filename).name}:{line}"
            where = f"{type(model).__name__}, module {paths[id(owner)] or '(itself)'}, {source}"
    return TraceError(
        f"torch.export cannot capture the model: {_first_line(error)}",
        where=where,
        hint="a forward whose control flow depends on data is quantized in parts: pass submodules=('backbone', ...)",
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
