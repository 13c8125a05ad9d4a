"""From a float model to a frozen graph: tracing, passes, and the figures for the report."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from qpass.compiler.pipeline import pipeline
from qpass.config import QuantConfig
from qpass.data import KeptBatches, ModelInputs
from qpass.data.rows import batch_size, even_batches, split_rows
from qpass.errors import CalibrationError, ConfigError, UnsupportedError, check_keys, nearest
from qpass.graph.capture.trace import trace
from qpass.graph.edit import flat_inputs, ordered_inputs, shape_of
from qpass.graph.facts import facts_of, update_facts
from qpass.graph.parts import put_back, record_calls, trace_part
from qpass.graph.short_repr import shorten_repr
from qpass.graph.signature.input_check import add_input_check, check_arguments, check_inputs
from qpass.graph.signature.input_dims import layout_of, takes_any_rows, tie_rows
from qpass.graph.source_check import Source
from qpass.passes import AllocateBits, Annotate, Canonicalize, Pass
from qpass.passes.analysis.blocks import find_blocks
from qpass.passes.analysis.reference import Reference
from qpass.passes.analysis.tensor_sensitivity import Sensitivity, measure_sensitivity
from qpass.report.agreement import top1_agreement
from qpass.report.collect import collect_report
from qpass.report.preview import without_pictures
from qpass.runtime.distributed import ALONE, Processes
from qpass.runtime.free_memory import return_free_memory
from qpass.runtime.storage import Storage

#: Fewest rows of a batch, if the loader yields enough, and most bytes of a batch's largest value.
LEAST_ROWS, VALUE_BYTES = 8, 2**26
#: Samples that the report's errors are measured on.
REPORT_SAMPLES = 8
#: Facts that passes leave for one another and for the report, and the values they are reset to.
_ONLY_WHILE_QUANTIZING: dict[str, Any] = {
    "reconstruction": (),
    "allocation": None,
    "unrotated": (),
    "channel_strengths": (),
    "declined": (),
    "layout": None,
}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of the run, as opposed to the recipe.

    Attributes:
        seed: Random seed.
        checkpoint_dir: Where to save learned blocks, or None.
        storage: Where to keep values of all batches while they are needed.
        processes: The processes that share the work.
        show_progress: Show progress bars.
        images: Whether the report shows calibration images.
    """

    seed: int = 0
    checkpoint_dir: Path | None = None
    storage: Storage = field(default_factory=Storage)
    processes: Processes = ALONE
    show_progress: bool = False
    images: bool = True

    def inside(self, name: str) -> RunOptions:
        """Returns the options for a part of the model, with a folder of its own for learned blocks."""
        folder = None if self.checkpoint_dir is None else self.checkpoint_dir / name
        return dataclasses.replace(self, checkpoint_dir=folder)


def quantize_traced(
    graph_module: fx.GraphModule,
    batches: Sequence[ModelInputs],
    config: QuantConfig,
    options: RunOptions,
    source: Source,
) -> fx.GraphModule:
    """Runs every pass on a traced graph in place, compares it with its source, and attaches the report."""
    batches = _suitable_batches(graph_module, batches, options)
    reference = Reference()
    *steps, freeze = _passes(graph_module, batches, config, options, reference)
    source.check(graph_module, "trace")
    for step in steps:
        step(graph_module)
        if step.keeps_function:
            source.check(graph_module, type(step).__name__, reference.graph)
        return_free_memory()
    floats = reference.beside(graph_module)
    freeze(graph_module)
    report = collect_report(floats, graph_module, _report_sample(graph_module, batches[0]), options.storage)
    report = dataclasses.replace(
        report,
        seed=options.seed,
        calibration_samples=sum(batch_size(batch, layout_of(graph_module)) for batch in batches),
        agreement=top1_agreement(floats, graph_module, batches),
        preview=report.preview if options.images else without_pictures(report.preview),
    )
    update_facts(graph_module, report=report)
    update_facts(graph_module, **_ONLY_WHILE_QUANTIZING)
    add_input_check(graph_module)
    return shorten_repr(graph_module)


def measure_traced(
    graph_module: fx.GraphModule,
    batches: Sequence[ModelInputs],
    config: QuantConfig,
    options: RunOptions,
    source: Source,
) -> Sensitivity:
    """Runs the passes on a traced graph until bit widths are chosen, and measures what each tensor costs."""
    batches = _suitable_batches(graph_module, batches, options)
    source.check(graph_module, "trace")
    for step in _passes(graph_module, batches, config, options, Reference()):
        if isinstance(step, AllocateBits):
            return measure_sensitivity(
                graph_module,
                step.statistics,
                step.batches,
                seed=options.seed,
                storage=options.storage,
                show_progress=options.show_progress,
            )
        step(graph_module)
        if step.keeps_function:
            source.check(graph_module, type(step).__name__)
        return_free_memory()
    raise AssertionError("every recipe has the pass that chooses bit widths")


def _passes(
    graph_module: fx.GraphModule,
    batches: Sequence[ModelInputs],
    config: QuantConfig,
    options: RunOptions,
    reference: Reference,
) -> list[Pass]:
    return pipeline(
        config,
        batches,
        reference=reference,
        layout=layout_of(graph_module),
        seed=options.seed,
        checkpoint_dir=options.checkpoint_dir,
        storage=options.storage,
        processes=options.processes,
        show_progress=options.show_progress,
    )


def _report_sample(graph_module: fx.GraphModule, batch: ModelInputs) -> ModelInputs:
    """Returns some rows of a batch, or all of them if the graph accepts no fewer."""
    layout = layout_of(graph_module)
    rows = min(REPORT_SAMPLES, batch_size(batch, layout))
    return split_rows(batch, rows, layout=layout)[0] if takes_any_rows(graph_module) else batch


def _suitable_batches(
    graph_module: fx.GraphModule, batches: Sequence[ModelInputs], options: RunOptions
) -> Sequence[ModelInputs]:
    """Returns the rows in batches that the graph accepts, neither inefficiently small nor too large.

    Raises:
        CalibrationError: If the graph does not accept a batch.
    """
    counts, ordered = [], True
    for batch in batches:
        own = _bound(graph_module, batch)
        counts.append([leaf.shape[0] if leaf.dim() else 1 for leaf in pytree.tree_leaves(own) if isinstance(leaf, Tensor)])
        ordered &= pytree.tree_structure(tuple(own)) == pytree.tree_structure(tuple(batch))
    tie_rows(graph_module, counts)
    cut, fits = _cut(graph_module, (_bound(graph_module, batch) for batch in batches), counts, options.processes.size)
    if ordered and fits:
        cut = iter(batches)
    suitable = KeptBatches(options.storage)
    for index, batch in enumerate(cut):
        _check_batch(graph_module, batch, index)
        if not (ordered and fits):
            suitable.append(batch)
    return batches if ordered and fits else suitable


def _bound(graph_module: fx.GraphModule, batch: ModelInputs) -> ModelInputs:
    """Returns a batch with its inputs in the graph's order."""
    return ModelInputs(*ordered_inputs(graph_module, *batch))


def _cut(
    graph_module: fx.GraphModule, batches: Iterator[ModelInputs], counts: Sequence[Sequence[int]], processes: int
) -> tuple[Iterator[ModelInputs], bool]:
    """Returns the rows in batches of suitable sizes, and whether the given batches are such."""
    layout = layout_of(graph_module)
    first = next((index for index, symbol in enumerate(layout or ()) if symbol), 0)
    sizes = [rows[first] for rows in counts]
    if not facts_of(graph_module).dynamic_batch:
        rows = batch_size(facts_of(graph_module).example)
        return _of_fixed_rows(batches, sizes, rows, type(graph_module).__name__), set(sizes) == {rows}
    if not takes_any_rows(graph_module):
        return batches, True
    most = rows_within(graph_module, VALUE_BYTES)
    least = min(LEAST_ROWS, most, sum(sizes) // processes)  # so that every process gets a batch
    return even_batches(batches, least=least, most=most, layout=layout), all(least <= size <= most for size in sizes)


def _check_batch(graph_module: fx.GraphModule, batch: ModelInputs, index: int) -> None:
    try:
        check_inputs(flat_inputs(graph_module, *batch), *check_arguments(graph_module))
    except UnsupportedError as error:
        hint = "give all batches the sizes of the first, or say with dynamic_shapes= what differs"
        raise CalibrationError(error.what, where=f"batch {index}", expected=error.expected, hint=hint) from error


def _of_fixed_rows(batches: Iterable[ModelInputs], sizes: Sequence[int], rows: int, model: str) -> Iterator[ModelInputs]:
    """Yields the rows in batches of a fixed size, and warns if some are left over.

    Raises:
        CalibrationError: If no batch has that many.
    """
    if max(sizes) < rows:
        hint = "give batches of that size, or smaller example_inputs=; the warning before says why the batch is fixed"
        raise CalibrationError(f"batches of {max(sizes)} rows", where=model, expected=f"{rows}, its fixed batch", hint=hint)
    left_over = sum(size % rows for size in sizes)
    if left_over:
        warnings.warn(f"{model}: {left_over} of {sum(sizes)} rows are left out: its batch is fixed at {rows}", stacklevel=4)
    for batch in batches:
        yield from [batch] if batch_size(batch) == rows else split_rows(batch, rows)


def rows_within(graph_module: fx.GraphModule, size: int) -> int:
    """Returns the most samples for which no value of a batch exceeds ``size`` bytes, at least 1."""
    example = batch_size(facts_of(graph_module).example, layout_of(graph_module))
    shapes = [shape for node in graph_module.graph.nodes if (shape := shape_of(node)) and node.op != "get_attr"]
    largest = max((torch.Size(shape).numel() * 4 for shape in shapes), default=1)
    return max(1, size * example // max(1, largest))


def quantize_model(
    model: nn.Module,
    example: ModelInputs,
    batches: Sequence[ModelInputs],
    config: QuantConfig,
    options: RunOptions,
    dynamic_shapes: Any = None,
) -> fx.GraphModule:
    """Traces a model and quantizes the graph."""
    graph_module, source = _traced(model, example, batches, options, dynamic_shapes)
    return quantize_traced(graph_module, batches, config, options, source)


def measure_model(
    model: nn.Module,
    example: ModelInputs,
    batches: Sequence[ModelInputs],
    config: QuantConfig,
    options: RunOptions,
    dynamic_shapes: Any = None,
) -> Sensitivity:
    """Traces a model and measures what each tensor costs its output."""
    graph_module, source = _traced(model, example, batches, options, dynamic_shapes)
    return measure_traced(graph_module, batches, config, options, source)


def _traced(
    model: nn.Module, example: ModelInputs, batches: Sequence[ModelInputs], options: RunOptions, dynamic_shapes: Any
) -> tuple[fx.GraphModule, Source]:
    """Returns the graph of a model, and what it is compared with."""
    graph_module = trace(model, *example, dynamic_shapes=dynamic_shapes)
    return graph_module, Source(model, graph_module, batches, options.storage)


def quantize_submodules(
    model: nn.Module,
    names: Sequence[str],
    batches: Sequence[ModelInputs],
    config: QuantConfig,
    options: RunOptions,
    dynamic_shapes: Any = None,
) -> nn.Module:
    """Quantizes submodules in a copy of the model, each calibrated on its actual inputs."""
    model = copy.deepcopy(model).eval()
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            raise ConfigError(f"the model has no module {name!r}", where="submodules", hint=nearest(name, known))
    shapes = dict(dynamic_shapes or {})
    check_keys(shapes, names, "dynamic_shapes")
    parts = {}
    for name, recorded in record_calls(model, names, batches, options.storage).items():
        if not recorded:
            raise ConfigError(f"module {name!r} was never called on the calibration data", where="submodules")
        parts[name] = trace_part(known[name], name, recorded, shapes.get(name))
    sources = {name: Source(known[name], part, used, options.storage) for name, (part, used) in parts.items()}
    learning = _parts_to_learn({name: part for name, (part, _) in parts.items()}, config)
    for name, (part, used) in parts.items():
        recipe = config if name in learning else dataclasses.replace(config, reconstruction=None)
        put_back(model, name, quantize_traced(part, used, recipe, options.inside(name), sources.pop(name)))
        update_facts(part, is_part=True)
    return model


def _parts_to_learn(parts: Mapping[str, fx.GraphModule], config: QuantConfig) -> set[str]:
    """Returns the parts with transformer blocks (a detector's heads have none); all parts if none has
    any, so that the first is rejected.
    """
    if config.reconstruction is None:
        return set()
    return {name for name, part in parts.items() if _has_blocks(part, config)} or set(parts)


def _has_blocks(traced: fx.GraphModule, config: QuantConfig) -> bool:
    graph_module = copy.deepcopy(traced)
    for step in (Canonicalize(), Annotate(config)):
        step(graph_module)
    return bool(find_blocks(graph_module))
