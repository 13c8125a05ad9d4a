"""Captures parts of a model that cannot be captured whole: their inputs, graphs and valid sizes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from qpass.data import KeptBatches, ModelInputs
from qpass.data.rows import batch_size
from qpass.data.structure import named_leaves, same_constant
from qpass.graph.capture.trace import trace
from qpass.graph.capture.undisturbed import undisturbed, without_gradients
from qpass.graph.edit import flat_inputs
from qpass.graph.facts import facts_of, update_facts
from qpass.graph.signature.input_check import sizes_text
from qpass.graph.source_check.output_error import output_error
from qpass.runtime.storage import Storage

#: Largest ``output_error`` at which a graph and its module agree.
SAME_OUTPUT = 1e-4


class CallKey(NamedTuple):
    """What two calls of a part must share so that one graph of fixed sizes serves both.

    Attributes:
        structure: Name of each value, and whether it is a tensor.
        constants: The non-tensor values, as text.
        sizes: The shape of every tensor without the batch dim.
    """

    structure: tuple[tuple[str, bool], ...]
    constants: tuple[str, ...]
    sizes: tuple[tuple[int, ...], ...]


def record_calls(
    model: nn.Module, names: Sequence[str], batches: Sequence[ModelInputs], storage: Storage | None = None
) -> dict[str, KeptBatches]:
    """Runs the model and returns the inputs of each call of the named modules.

    Skips calls with no rows.

    Args:
        model: The whole model.
        names: Paths of the modules.
        batches: Inputs of the model's calls.
        storage: Where to keep the calls; None keeps them in memory.
    """
    storage = Storage() if storage is None else storage
    recorded = {name: KeptBatches(storage) for name in names}

    def record(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            call = ModelInputs(args, dict(kwargs))
            if batch_size(call):
                recorded[name].append(call.copied())  # the model may write to it afterwards

        return model.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)

    handles = [record(name) for name in names]
    try:
        with torch.no_grad(), without_gradients(model):
            for batch in batches:
                own = batch.copied()
                model(*own.args, **own.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return recorded


def trace_part(
    module: nn.Module, name: str, calls: KeptBatches, dynamic_shapes: Any = None
) -> tuple[fx.GraphModule, KeptBatches]:
    """Captures a part. Sizes that differ between its calls are open where possible.

    Args:
        module: The part.
        name: Its path in the model.
        calls: Inputs of its calls.
        dynamic_shapes: Dims to open instead: see ``qpass.quantize_graph``.

    Returns:
        The graph, and the calls that it is valid for. If sizes cannot be open, these are the calls of
        the most frequent sizes, and of other sizes for which the graph computes the same. The same
        applies to non-tensor values, and to inputs that some calls lack.
    """
    keys = [_key(call, module) for call in calls]
    (common, _), *others = Counter(keys).most_common()
    if not others:
        return trace(module, *calls[0], dynamic_shapes=dynamic_shapes), calls
    alike = [key for key in dict.fromkeys(keys) if key.structure == common.structure]
    examples = {key: calls[keys.index(key)] for key in alike}
    open_sizes = () if dynamic_shapes is not None else _differing([key.sizes for key in alike])
    graph_module = trace(module, *examples[common], open_sizes=open_sizes, dynamic_shapes=dynamic_shapes)
    held = {key for key, call in examples.items() if _holds_for(graph_module, call) and _agree(graph_module, module, call)}
    used = calls.only([index for index, key in enumerate(keys) if key in held])
    if facts_of(graph_module).bound_sizes or len(used) < len(calls):
        update_facts(graph_module, sizes=sorted({key.sizes for key in held}))
    update_facts(graph_module, free=_free_inputs(graph_module, [examples[key] for key in held]))
    if len(used) < len(calls):
        sizes = _texts(key.sizes for key in held)
        warnings.warn(
            f"{name}: {_reason(keys, common)}: it holds for {sizes}, which {len(used)} of {len(calls)} calls have", stacklevel=5
        )
    return graph_module, used


def _reason(keys: Sequence[CallKey], common: CallKey) -> str:
    """Returns how calls differ from the most frequent ones; differences other than size come first."""
    if any(key.structure != common.structure for key in keys):
        return "it is not always called with the same inputs"
    names = [name for name, is_tensor in common.structure if not is_tensor]
    found = {name: dict.fromkeys(key.constants[index] for key in keys) for index, name in enumerate(names)}
    differing = [f"{name} is {' or '.join(values)}" for name, values in found.items() if len(values) > 1]
    if differing:
        return f"values that are no tensors differ between its calls ({', '.join(differing)}) and are constants of a graph"
    return "its sizes cannot be open"


def _key(call: ModelInputs, module: nn.Module) -> CallKey:
    named = named_leaves(*call, module)
    structure = tuple((name, isinstance(leaf, Tensor)) for name, leaf in named.items())
    constants = tuple(repr(leaf) for leaf in named.values() if not isinstance(leaf, Tensor))
    return CallKey(structure, constants, tuple(tuple(leaf.shape[1:]) for leaf in named.values() if isinstance(leaf, Tensor)))


def call_forms(part: nn.Module, calls: Sequence[ModelInputs]) -> dict[str, ModelInputs]:
    """Returns the first call of each form: sizes after dim 0, inputs present, and non-tensor values.

    Args:
        part: The part.
        calls: Inputs of its calls.

    Returns:
        The calls, keyed by their sizes as text, such as ``"(batch, 16, 8)"``. Forms of the same sizes
        are numbered.
    """
    first: dict[CallKey, ModelInputs] = {}
    for call in calls:
        first.setdefault(_key(call, part), call)
    found: dict[str, ModelInputs] = {}
    for key, call in first.items():
        text = sizes_text(key.sizes)
        others = sum(name.partition(" form ")[0] == text for name in found)
        found[f"{text} form {others + 1}" if others else text] = call
    return found


def _free_inputs(graph_module: fx.GraphModule, calls: Sequence[ModelInputs]) -> list[str]:
    """Returns the non-tensor inputs that differ between a graph's valid calls: it does not read them."""
    placeholders = [node.name for node in graph_module.graph.nodes if node.op == "placeholder"]
    values = zip(*(flat_inputs(graph_module, *call) for call in calls), strict=True)
    return [name for name, column in zip(placeholders, values, strict=True) if _differ(column)]


def _differ(values: Sequence[Any]) -> bool:
    return not isinstance(values[0], Tensor) and any(not same_constant(value, values[0]) for value in values)


def _agree(graph_module: fx.GraphModule, module: nn.Module, call: ModelInputs) -> bool:
    """Returns whether a graph's output agrees with its module's.

    Traced at another size, the graph may have taken another branch. A graph that cannot handle the
    sizes raises a plain RuntimeError or IndexError. Subclasses of these, and errors of the module
    itself, are unrelated to sizes and propagate: out of memory, a failing device, an operator without
    a kernel.
    """
    with undisturbed(module):  # in float32, as when it was traced
        own = call.copied()  # the module may write into it, and calibration reads the call again
        expected = module(*own.args, **own.kwargs)
        try:
            found = graph_module(*call.args, **call.kwargs)
        except (RuntimeError, IndexError) as error:
            if type(error) not in (RuntimeError, IndexError) or "can't allocate memory" in str(error):
                raise
            return False
    return output_error(found, expected) <= SAME_OUTPUT


def put_back(model: nn.Module, name: str, part: nn.Module) -> None:
    """Replaces the module at a path with another."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, part)


def parts_of(model: nn.Module) -> dict[str, fx.GraphModule]:
    """Returns the quantized graphs inside a model, by path, but not the model itself."""
    return {
        name: module
        for name, module in model.named_modules()
        if name and isinstance(module, fx.GraphModule) and facts_of(module).stage == "frozen"
    }


def _holds_for(graph_module: fx.GraphModule, call: ModelInputs) -> bool:
    """Returns whether a call's sizes after dim 0 match the graph's fixed and open sizes."""
    tensors = [leaf for leaf in flat_inputs(graph_module, *call) if isinstance(leaf, Tensor)]
    return all(
        tensor.dim() == len(dims) and all(isinstance(b, str) or a == b for a, b in zip(tensor.shape[1:], dims[1:], strict=True))
        for tensor, dims in zip(tensors, facts_of(graph_module).dims, strict=True)
    )


def _differing(sizes: Sequence[tuple[tuple[int, ...], ...]]) -> list[tuple[int, ...]]:
    """Returns, for each tensor of a call, the dims after dim 0 in which calls differ."""
    return [_differing_dims(shapes) for shapes in zip(*sizes, strict=True)]


def _differing_dims(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    if len({len(shape) for shape in shapes}) > 1:
        return ()
    return tuple(dim for dim, sizes in enumerate(zip(*shapes, strict=True), 1) if len(set(sizes)) > 1)


def _texts(all_sizes: Iterable[tuple[tuple[int, ...], ...]]) -> str:
    return " or ".join(sizes_text(sizes) for sizes in sorted(set(all_sizes)))
