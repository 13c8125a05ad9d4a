"""From a float model to a frozen graph: tracing, the passes, and the figures that the report shows."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import fx, nn

from qpass.config import QuantConfig
from qpass.data import KeptBatches, ModelInputs
from qpass.data.batches import batch_size, even_batches, split_rows
from qpass.distributed import ALONE, Processes
from qpass.errors import ConfigError, nearest
from qpass.graph import info, shape_of
from qpass.parts import put_back, record_calls, refuse_other_sizes, trace_part
from qpass.passes import Annotate, Canonicalize
from qpass.passes.blocks import find_blocks
from qpass.passes.reference import reference_of
from qpass.pipeline import pipeline
from qpass.report.collect import collect_report
from qpass.source_check import Source
from qpass.storage import Storage
from qpass.trace import trace

#: Rows that batches have at least, where the loader gives enough of them, and bytes of the largest value of a batch.
LEAST_ROWS, VALUE_BYTES = 8, 2**26
#: Samples that the report's errors are measured on.
REPORT_SAMPLES = 8
#: What passes leave for one another and for the report.
_ONLY_WHILE_QUANTIZING = (
    *("statistics", "channel_statistics", "product_statistics"),
    *("reference", "reconstruction", "allocation", "unrotated"),
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What concerns the run and not the recipe.

    Attributes:
        seed: Of the random numbers.
        checkpoint_dir: Where learned blocks are kept, or None.
        storage: Where values of all batches lie while they are needed.
        processes: Those that share the work.
        show_progress: Show bars.
    """

    seed: int = 0
    checkpoint_dir: Path | None = None
    storage: Storage = field(default_factory=Storage)
    processes: Processes = ALONE
    show_progress: bool = False

    def inside(self, name: str) -> RunOptions:
        """Returns the options for a part of the model, whose blocks are kept apart."""
        folder = None if self.checkpoint_dir is None else self.checkpoint_dir / name
        return dataclasses.replace(self, checkpoint_dir=folder)


def quantize_traced(
    graph_module: fx.GraphModule,
    batches: Sequence[ModelInputs],
    config: QuantConfig,
    options: RunOptions,
    source: Source,
) -> fx.GraphModule:
    """Runs every pass on a traced graph, in place, compares it with its source, and keeps the report's figures with it."""
    batches = _suitable_batches(graph_module, batches, options)
    *steps, freeze = pipeline(
        config,
        batches,
        seed=options.seed,
        checkpoint_dir=options.checkpoint_dir,
        storage=options.storage,
        processes=options.processes,
        show_progress=options.show_progress,
    )
    source.check(graph_module, "trace")
    for step in steps:
        step(graph_module)
        if step.keeps_function:
            source.check(graph_module, type(step).__name__)
    reference = reference_of(graph_module)
    freeze(graph_module)
    sample = split_rows(batches[0], min(REPORT_SAMPLES, batch_size(batches[0])))[0]
    info(graph_module)["report"] = collect_report(reference, graph_module, sample)
    for key in _ONLY_WHILE_QUANTIZING:
        info(graph_module).pop(key, None)
    return graph_module


def _suitable_batches(
    graph_module: fx.GraphModule, batches: Sequence[ModelInputs], options: RunOptions
) -> Sequence[ModelInputs]:
    """Returns the rows in batches that the graph takes, and that are neither slow nor too large for the memory."""
    suitable = KeptBatches(options.storage)
    if info(graph_module)["dynamic_batch"]:
        sizes, most = [batch_size(batch) for batch in batches], rows_within(graph_module, VALUE_BYTES)
        least = min(LEAST_ROWS, most, sum(sizes) // options.processes.size)  # so that every process gets a batch
        if all(least <= size <= most for size in sizes):
            return batches
        for batch in even_batches(batches, least=least, most=most):
            suitable.append(batch)
    else:
        rows = batch_size(info(graph_module)["example"])
        for batch in batches:
            for part in split_rows(batch, rows):
                suitable.append(part)
    return suitable


def rows_within(graph_module: fx.GraphModule, size: int) -> int:
    """Returns how many samples a batch may have so that no single value takes more bytes, at least one."""
    example = batch_size(info(graph_module)["example"])
    shapes = [shape for node in graph_module.graph.nodes if (shape := shape_of(node)) and node.op != "get_attr"]
    largest = max((torch.Size(shape).numel() * 4 for shape in shapes), default=1)
    return max(1, size * example // max(1, largest))


def quantize_model(
    model: nn.Module, example: ModelInputs, batches: Sequence[ModelInputs], config: QuantConfig, options: RunOptions
) -> fx.GraphModule:
    """Traces a model and quantizes the graph."""
    graph_module = trace(model, *example)
    return quantize_traced(graph_module, batches, config, options, Source(model, graph_module, batches))


def quantize_submodules(
    model: nn.Module,
    names: Sequence[str],
    batches: Sequence[ModelInputs],
    config: QuantConfig,
    options: RunOptions,
) -> nn.Module:
    """Quantizes parts of a copy of the model, each calibrated on the inputs that it really gets, and puts them back."""
    model = copy.deepcopy(model).eval()
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            raise ConfigError(f"the model has no module {name!r}", where="submodules", hint=nearest(name, known))
    parts = {}
    for name, recorded in record_calls(model, names, batches, options.storage).items():
        if not recorded:
            raise ConfigError(f"module {name!r} was never called on the calibration data", where="submodules")
        parts[name] = trace_part(known[name], name, recorded)
    sources = {name: Source(known[name], part, used) for name, (part, used) in parts.items()}
    learning = _parts_to_learn({name: part for name, (part, _) in parts.items()}, config)
    for name, (part, used) in parts.items():
        recipe = config if name in learning else dataclasses.replace(config, reconstruction=None)
        put_back(model, name, quantize_traced(part, used, recipe, options.inside(name), sources[name]))
        refuse_other_sizes(part)
        info(part)["is_part"] = True
    return model


def _parts_to_learn(parts: Mapping[str, fx.GraphModule], config: QuantConfig) -> set[str]:
    """Returns the parts with transformer blocks: a detector's heads have none. Where none has any, the first is refused."""
    if config.reconstruction is None:
        return set()
    return {name for name, part in parts.items() if _has_blocks(part, config)} or set(parts)


def _has_blocks(traced: fx.GraphModule, config: QuantConfig) -> bool:
    graph_module = copy.deepcopy(traced)
    for step in (Canonicalize(), Annotate(config)):
        step(graph_module)
    return bool(find_blocks(graph_module))
