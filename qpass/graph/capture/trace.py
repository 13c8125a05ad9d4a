"""nn.Module -> torch.fx.GraphModule of aten operators, with a dynamic batch where the model allows it."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.data.rows import batch_size
from qpass.data.structure import CONSTANTS, named_leaves
from qpass.errors import InputsError, QPassError, TraceError, first_line
from qpass.graph.capture.assigned_buffers import without_assigned_buffers
from qpass.graph.capture.capture_errors import explain
from qpass.graph.capture.export_open import ConditionError, conditions, export_open, holds_for_some, squeezed_rows
from qpass.graph.capture.functionalize import functionalize
from qpass.graph.capture.given_masks import given_masks
from qpass.graph.capture.one_row import why_not_one_row
from qpass.graph.capture.refusals import refuse_flex_attention, refuse_quantized_calls, refuse_transforms
from qpass.graph.capture.size_lines import TRIED_SIZES, SizeLines, line_of, size_lines
from qpass.graph.capture.tensor_names import check_input_names, rename_tensors
from qpass.graph.capture.undisturbed import undisturbed
from qpass.graph.edit import copy_tensors, record_shapes
from qpass.graph.facts import facts_of, update_facts
from qpass.graph.signature.input_dims import Dims, exported_dims, given_dims, larger_dims
from qpass.runtime.quiet import quiet_thread
from qpass.runtime.torch_modes import SHARED_STATE, kept_random_state

#: Rows of the example batch: torch.export treats a size of 1 as a constant.
EXAMPLE_ROWS = 2
#: What a line that fixes the batch does, and the remedy.
TAKEN_FOR_CONSTANT = (
    "takes the number of rows for a constant, as len(x), int(x.shape[0]), loops over x, and chunk or unbind of dim 0 do; "
    "write x.shape[0], and split other dims"
)


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    open_sizes: Sequence[tuple[int, ...]] = (),
    dynamic_shapes: Any = None,
) -> fx.GraphModule:
    """Captures a model in eval mode as a graph that shares nothing with it.

    Dim 0 of every tensor is open where the model allows it. Dims that the model needs to be equal share
    one symbol.

    Args:
        model: Any model that torch.export captures; left unchanged.
        args: Positional example inputs, tensors with the batch first.
        kwargs: Example inputs by name.
        open_sizes: For each input tensor, the dims to open other than the batch dim.
        dynamic_shapes: Dims to open instead, for the inputs that it names: see
            ``qpass.quantize_graph``.

    Returns:
        A GraphModule whose ``facts_of`` hold the example inputs, their ``names``, the table of their
        ``dims`` (see ``qpass.graph.signature.input_dims``), ``dynamic_batch``, the ``open_sizes`` that
        the model leaves open, and ``bound_sizes``: whether it accepts only some values of these. If the
        batch cannot be dynamic, a warning names the line that fixes it, and the graph holds for batches
        of the example's size.

    Raises:
        TraceError: If the model cannot be captured; names the module, the source line and the remedy.
            Also if the model fixes a dim that ``dynamic_shapes`` opens.
        ConfigError: If ``dynamic_shapes`` does not fit the inputs.
    """
    kwargs = dict(kwargs or {})
    with SHARED_STATE, undisturbed(model, captured=True) as as_it_came, given_masks(), without_assigned_buffers(), _quiet():
        order = _bound_names(model, args, kwargs)
        check_input_names((*order, *kwargs), model)
        kwargs = dict(sorted(kwargs.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))
        example = _example_that_runs(model, args, kwargs)
        as_it_came()
        graph_module, reason = _open_graph(model, (args, kwargs), example, open_sizes, dynamic_shapes, as_it_came)
        if graph_module is None:
            as_it_came()
            _check_runs(model, args, kwargs)
            as_it_came()
            graph_module = _fixed_graph(model, args, kwargs)
    if reason:
        rows = batch_size(facts_of(graph_module).example)
        warnings.warn(f"{type(model).__name__}: the batch is fixed at {rows}, it cannot be dynamic: {reason}", stacklevel=3)
    dims = facts_of(graph_module).dims
    left_open = [tuple(n for n in wanted if isinstance(sizes[n], str)) for sizes, wanted in zip(dims, open_sizes, strict=False)]
    update_facts(graph_module, open_sizes=left_open)
    return graph_module


def _bound_names(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """Returns the names of the given inputs, in the order of the model's forward."""
    signature = inspect.signature(model.forward)
    try:
        return list(signature.bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise TraceError(
            f"the batch does not match forward: {error}",
            where=type(model).__name__,
            expected=f"the inputs of forward{signature}",
            hint="only the first entry of a tuple is an input; pass several inputs as a dict by name",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), quiet_thread():
        warnings.simplefilter("ignore")
        yield


def _open_graph(
    model: nn.Module,
    call: tuple[Any, Any],
    example: tuple[Any, Any],
    open_sizes: Sequence[tuple[int, ...]],
    dynamic_shapes: Any,
    as_it_came: Callable[[], None],
) -> tuple[fx.GraphModule | None, str]:
    """Returns a graph with open rows and '', or None and the reason why rows cannot be open."""
    given = given_dims(model, *example, dynamic_shapes)
    wants_rows = any(own is None or 0 in own for own in given)
    if not wants_rows:  # dynamic_shapes opens only other dims
        example = copy_tensors(call)
        given = given_dims(model, *example, dynamic_shapes)
    with size_lines() as lines:
        try:
            program = export_open(model, *example, open_sizes=open_sizes, dynamic_shapes=dynamic_shapes)
        except QPassError:
            raise
        except Exception as error:  # torch.export raises many kinds
            if dynamic_shapes is not None:
                raise _not_open(_all_lines(error), model) from error
            return None, _why_not_exported(error, lines)
    if wants_rows and not any(isinstance(sizes[0], str) for sizes in _table(program, model, example, given)[1] if sizes):
        where = lines.fixing() or "its forward"
        return None, f"{where} {TAKEN_FOR_CONSTANT}"
    if line := squeezed_rows(program):
        reason = f"{line} squeezes away an open dim, such as the rows, if its size is 1; name the dims to squeeze"
    else:
        bound = bool(conditions(program))
        graph_module = _graph(program, model, example, given)
        as_it_came()  # capturing a forward may leave symbolic tensors in the model
        reason = why_not_one_row(model, graph_module, lines, rows_only=bound, larger=larger_dims(given))
    if not reason:
        return graph_module, ""
    if dynamic_shapes is not None:
        raise _not_open(reason, model)
    return None, reason


def _check_runs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    own_args, own_kwargs = copy_tensors((args, kwargs))
    try:
        with kept_random_state():
            model(*own_args, **own_kwargs)
    except Exception as error:  # a model may raise anything for inputs that it does not take
        raise _does_not_run(model, args, kwargs, error) from error


def _fixed_graph(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.GraphModule:
    """Returns the graph with all sizes fixed to those of this call."""
    args, kwargs = copy_tensors((args, kwargs))
    try:
        program = torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:  # torch.export raises many kinds
        raise explain(error, model) from error
    return _graph(program, model, (args, kwargs), given_dims(model, args, kwargs, None))


def _graph(
    program: torch.export.ExportedProgram, model: nn.Module, example: tuple[Any, Any], given: Sequence[dict[int, Any] | None]
) -> fx.GraphModule:
    """Returns the graph of a program, with its facts."""
    names, dims = _table(program, model, example, given)
    rename_tensors(program)
    return _own_graph(
        program.module(),
        type(model).__name__,
        example=example,
        names=names,
        dims=dims,
        dynamic_batch=any(isinstance(sizes[0], str) for sizes in dims if sizes),
        bound_sizes=holds_for_some(program),
    )


def _table(
    program: torch.export.ExportedProgram, model: nn.Module, example: tuple[Any, Any], given: Sequence[dict[int, Any] | None]
) -> tuple[list[str], Dims]:
    names = [name for name, leaf in named_leaves(*example, model).items() if isinstance(leaf, Tensor)]
    return names, exported_dims(program, names, given)


def _why_not_exported(error: Exception, lines: SizeLines) -> str:
    """Returns why an export with open rows failed, with the line."""
    line = lines.branching(TRIED_SIZES[1:]) if isinstance(error, ConditionError) else line_of(error)
    return f"{line}: {first_line(error)}" if line else first_line(error)


def _not_open(reason: str, model: nn.Module) -> TraceError:
    return TraceError(
        f"the model does not leave open what dynamic_shapes opens: {reason}",
        where=type(model).__name__,
        hint="give torch.export.Dim with a min and max that the model takes, and leave out what it fixes",
    )


def _own_graph(exported: nn.Module, name: str, **kept: Any) -> fx.GraphModule:
    """Returns a plain functional GraphModule with its own tensors, without torch.export's guards."""
    assert isinstance(exported, fx.GraphModule)
    refuse_flex_attention(exported.graph)
    refuse_transforms(exported.graph)
    refuse_quantized_calls(exported.graph)
    for node in list(exported.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("_guards"):
            exported.graph.erase_node(node)
    graph_module = fx.GraphModule(copy.deepcopy(exported), exported.graph, class_name=name)
    graph_module.requires_grad_(False)
    update_facts(graph_module, stage="traced", **kept)
    graph_module.eval()
    functionalize(graph_module)
    with kept_random_state():
        record_shapes(graph_module)
    return graph_module


def _example_that_runs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Returns a small copied example that the model runs on, with ``EXAMPLE_ROWS`` rows if possible.

    A one-row tensor may have a row count of its own, or be shared by all rows: both are tried.
    """
    rows = batch_size((args, kwargs))
    error: Exception = TraceError("")
    for sizes in ({1: EXAMPLE_ROWS + 1, rows: EXAMPLE_ROWS}, {rows: EXAMPLE_ROWS}, {}):
        example = pytree.tree_map(lambda leaf, sizes=sizes: _resized(leaf, sizes), (args, kwargs))
        try:
            own_args, own_kwargs = copy_tensors(example)
            with kept_random_state():
                outputs = model(*own_args, **own_kwargs)
        except Exception as raised:  # a model may raise anything for inputs that it does not take
            error = raised
            continue
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(outputs)):
            _refuse_outputs(model, outputs)
        return example  # type: ignore[no-any-return]
    raise _does_not_run(model, args, kwargs, error) from error


def _refuse_outputs(model: nn.Module, outputs: Any) -> None:
    """Refuses outputs without a tensor, unless torch.export says more of their type.

    Raises:
        TraceError: If they consist of plain values only.
    """
    if all(isinstance(leaf, CONSTANTS) for leaf in pytree.tree_leaves(outputs)):
        raise TraceError(
            f"its forward returns {outputs!r}, which holds no tensor",
            where=type(model).__name__,
            expected="outputs with at least one tensor",
            hint="return what the network computes",
        )


def _does_not_run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> TraceError:
    if "does not require grad" in str(error):
        return TraceError(
            f"the model takes derivatives (torch.autograd.grad or backward) in its forward: {first_line(error)}",
            where=type(model).__name__,
            expected="a forward that runs in torch.no_grad(), as every forward does in qpass",
            hint="write derivatives out as formulas",
        )
    shapes = [tuple(leaf.shape) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return InputsError(
        f"the model does not run on inputs of shape {shapes}: {first_line(error)}",
        where=type(model).__name__,
        expected="example inputs (or calibration batches) that the model's forward takes",
        hint="pass example_inputs= or transform_fn=; a model of several inputs takes a dict of them",
    )


def _resized(leaf: Any, sizes: Mapping[int, int]) -> Any:
    """Cuts or repeats a tensor's rows to ``sizes[rows]``; copies it if ``sizes`` has no such entry."""
    if not isinstance(leaf, Tensor) or not leaf.dim() or leaf.shape[0] not in sizes:
        return copy_tensors(leaf)
    rows = sizes[leaf.shape[0]]
    return leaf.repeat(-(-rows // leaf.shape[0]), *[1] * (leaf.dim() - 1))[:rows].clone()


def _all_lines(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:1000]
