"""nn.Module -> torch.fx.GraphModule of aten operators, with a dynamic batch where the model allows it."""

from __future__ import annotations

import copy
import inspect
import io
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.data.rows import batch_size
from qpass.data.structure import named_leaves
from qpass.errors import QPassError, TraceError
from qpass.export_open import export_open, fixing_lines, holds_for_some, squeezed_rows
from qpass.functionalize import functionalize
from qpass.given_masks import given_masks
from qpass.graph import copy_tensors, info, record_shapes
from qpass.input_dims import Dims, exported_dims, given_dims
from qpass.refusals import refuse_flex_attention, refuse_transforms
from qpass.tensor_names import rename_tensors
from qpass.torch_modes import ALONE, kept_random_state
from qpass.undisturbed import undisturbed

#: Rows of the example batch: torch.export takes a size of 1 for a constant.
EXAMPLE_ROWS = 2


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    open_sizes: Sequence[tuple[int, ...]] = (),
    dynamic_shapes: Any = None,
) -> fx.GraphModule:
    """Captures a model in eval mode as a graph that shares nothing with it.

    Dim 0 of every tensor is open where the model leaves it open; those that it needs to be equal are one symbol.

    Args:
        model: Any model that torch.export captures; left as it was.
        args: Positional example inputs, tensors with the batch first.
        kwargs: Example inputs by name.
        open_sizes: For each tensor of the inputs the dims, beside the batch, that shall be open to other sizes.
        dynamic_shapes: What is open instead, for the inputs that it names: see ``qpass.quantize_graph``.

    Returns:
        A GraphModule with ``meta["qpass"]`` holding the example inputs, their ``names``, the table of their ``dims`` (see
        ``qpass.input_dims``), ``dynamic_batch``, which of ``open_sizes`` the model leaves open, and whether these are
        ``bound_sizes``, of which only some will do. Where the batch cannot be dynamic, a warning says so, names the line that
        needs it fixed, and the graph holds for batches as large as the example's.

    Raises:
        TraceError: If the model cannot be captured; names the module, the source line and what to do. Also if it does not
            leave open what ``dynamic_shapes`` opens.
        ConfigError: If ``dynamic_shapes`` does not fit the inputs.
    """
    kwargs = dict(kwargs or {})
    with (
        ALONE,
        undisturbed(model),
        given_masks(),
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")  # and torch.export prints its partial graph when it fails
        program, names, dims, example, reason = _export(model, args, kwargs, open_sizes, dynamic_shapes)
        rename_tensors(program)
        graph_module = program.module()
    dynamic = _any_rows(dims)
    if not dynamic:
        rows = batch_size(example)
        warnings.warn(f"{type(model).__name__}: the batch is fixed at {rows}, it cannot be dynamic: {reason}", stacklevel=3)
    still_open = [
        tuple(n for n in wanted if isinstance(sizes[n], str)) for sizes, wanted in zip(dims, open_sizes, strict=False)
    ]
    kept = {
        "dynamic_batch": dynamic,
        "dims": dims,
        "names": names,
        "open_sizes": still_open,
        "bound_sizes": holds_for_some(program),
    }
    return _own_graph(graph_module, type(model).__name__, example=example, **kept)


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], open_sizes: Sequence[tuple[int, ...]], dynamic_shapes: Any
) -> tuple[torch.export.ExportedProgram, list[str], Dims, tuple[Any, Any], str]:
    """Returns the program, names and table of its input tensors, the example, and why the batch is fixed, if it is."""
    order = list(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    kwargs = dict(sorted(kwargs.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))
    example = _example_that_runs(model, args, kwargs)
    try:
        with fixing_lines() as lines:
            program = export_open(model, *example, open_sizes=open_sizes, dynamic_shapes=dynamic_shapes)
        names, dims = _table(program, model, example, dynamic_shapes)
        if not _any_rows(dims):
            reason = _why_fixed(lines)
        elif batch_size((args, kwargs)) == 1 and (line := squeezed_rows(program)):
            reason = f"{line} squeezes the dim of rows away where there is one row"
        else:
            reason = ""
    except QPassError:
        raise
    except Exception as error:  # torch.export raises many kinds
        reason = _first_line(error)
        if dynamic_shapes is not None:
            raise TraceError(
                f"the model does not leave open what dynamic_shapes opens: {_all_lines(error)}",
                where=type(model).__name__,
                hint="give torch.export.Dim.AUTO, or leave out, what the model fixes",
            ) from error
    if reason:
        example = copy_tensors((args, kwargs))
        try:
            program = torch.export.export(model, *example, strict=False)
        except Exception as error:
            raise _explain(error, model) from error
        names, dims = _table(program, model, example, None)
    return program, names, dims, example, reason


def _table(
    program: torch.export.ExportedProgram, model: nn.Module, example: tuple[Any, Any], dynamic_shapes: Any
) -> tuple[list[str], Dims]:
    names = [name for name, leaf in named_leaves(*example, model).items() if isinstance(leaf, Tensor)]
    return names, exported_dims(program, names, given_dims(model, *example, dynamic_shapes))


def _any_rows(dims: Dims) -> bool:
    return any(isinstance(sizes[0], str) for sizes in dims if sizes)


def _why_fixed(lines: Sequence[str]) -> str:
    where = next((line for line in lines if line), "its forward")
    return f"{where} takes the number of rows for a constant, as len(x), int(x.shape[0]) and loops over x do; write x.shape[0]"


def _own_graph(exported: nn.Module, name: str, **kept: Any) -> fx.GraphModule:
    """Returns a plain functional GraphModule with its own tensors, without torch.export's guards."""
    assert isinstance(exported, fx.GraphModule)
    refuse_flex_attention(exported.graph)
    refuse_transforms(exported.graph)
    for node in list(exported.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):
            exported.graph.erase_node(node)
    graph_module = fx.GraphModule(copy.deepcopy(exported), exported.graph, class_name=name)
    graph_module.requires_grad_(False)
    info(graph_module).update(stage="traced", **kept)
    graph_module.eval()
    functionalize(graph_module)
    with kept_random_state():
        record_shapes(graph_module)
    return graph_module


def _example_that_runs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Returns a small example with copied tensors that the model runs on, at best one with ``EXAMPLE_ROWS`` rows.

    A tensor of one row may be one of a kind, or what all rows share: both are tried.
    """
    rows = batch_size((args, kwargs))
    error: Exception = TraceError("")
    for sizes in ({1: EXAMPLE_ROWS + 1, rows: EXAMPLE_ROWS}, {rows: EXAMPLE_ROWS}, {}):
        example = pytree.tree_map(lambda leaf, sizes=sizes: _resized(leaf, sizes), (args, kwargs))
        try:
            own_args, own_kwargs = copy_tensors(example)
            model(*own_args, **own_kwargs)
            return example  # type: ignore[no-any-return]
        except Exception as raised:  # whatever a model raises for inputs that it does not take
            error = raised
    shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    raise TraceError(
        f"the model does not run on inputs of shape {shapes}: {_first_line(error)}",
        where=type(model).__name__,
        expected="example inputs (or calibration batches) that the model's forward takes",
        hint="pass example_inputs= or transform_fn=; a model of several inputs takes a dict of them",
    ) from error


def _resized(leaf: Any, sizes: Mapping[int, int]) -> Any:
    """Cuts or repeats a tensor whose dim 0 is one of some sizes."""
    if not isinstance(leaf, Tensor) or not leaf.dim() or leaf.shape[0] not in sizes:
        return copy_tensors(leaf)
    rows = sizes[leaf.shape[0]]
    return leaf.repeat(-(-rows // leaf.shape[0]), *[1] * (leaf.dim() - 1))[:rows].clone()


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


def _all_lines(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:1000]
