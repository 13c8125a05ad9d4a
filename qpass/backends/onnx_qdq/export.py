"""Pipeline from a graph to an ONNX file."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as common
from torch import fx

from qpass.backends.onnx_qdq.capabilities import (
    WeightType,
    explain,
    explain_weight_type,
    ir_version_for,
)
from qpass.backends.onnx_qdq.emit import CONTRIB_DOMAIN, Emitter
from qpass.backends.onnx_qdq.explicit import check_explicit
from qpass.backends.onnx_qdq.layer_outputs import MARK, name_layer_outputs, take_marks
from qpass.backends.onnx_qdq.lowerings import lowering_of
from qpass.backends.onnx_qdq.pack_weights import pack_weights
from qpass.backends.onnx_qdq.separate_outputs import separate_outputs
from qpass.backends.onnx_qdq.short_names import shorten_names
from qpass.backends.onnx_qdq.simplify import ShareInitializers
from qpass.backends.onnx_qdq.targets import Target, target_by_name
from qpass.backends.onnx_qdq.to_onnx import DOMAIN, to_onnx
from qpass.backends.onnx_qdq.write import check_writable, write_model
from qpass.errors import LoweringError
from qpass.graph.edit import input_name, shape_of
from qpass.graph.facts import facts_of
from qpass.quantizers import ByteTable, Quantizer, Uniform, WeightCodebook
from qpass.quantizers.base import GREATEST_INT8
from qpass.version import __version__

_LOG = logging.getLogger(__name__)
#: Target if none is given.
DEFAULT_TARGET = "onnxruntime"
#: Processors on which a file without products that may overflow matches its graph.
EVERY_PROCESSOR = "every processor"
_FAST_PROCESSORS = "ARM and x86 with VNNI"
#: Metadata key for the type of 8-bit second operands, in files whose products may overflow as int8.
WEIGHT_TYPE = "qpass.weight_type"
#: Metadata key for the shapes of the inputs at tracing, in files that leave more than the batch
#: open: JSON of a shape for each input. Runs with made-up inputs take them.
EXAMPLE_SIZES = "qpass.example_sizes"


def export_quantized(
    graph_module: fx.GraphModule,
    path: str | Path,
    *,
    opset: int | None = None,
    target: str = DEFAULT_TARGET,
    weight_type: str = "auto",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes a frozen graph as an ONNX file, with ``metadata`` of the caller; see ``qpass.export_onnx``."""
    if facts_of(graph_module).stage != "frozen":
        raise LoweringError(
            f"the graph is at stage {facts_of(graph_module).stage!r}",
            where="export_onnx",
            expected="a graph from quantize_graph",
        )
    found = target_by_name(target)
    if found.lowering.explicit:
        check_explicit(graph_module, target)
    return _export(graph_module, Path(path), opset, found, weight_type, metadata or {})


def export_float(
    graph_module: fx.GraphModule,
    path: str | Path,
    *,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes a traced float graph, the baseline of sizes and timings."""
    return _export(graph_module, Path(path), opset, target_by_name(DEFAULT_TARGET), "auto", metadata or {})


def _export(
    graph_module: fx.GraphModule,
    path: Path,
    opset: int | None,
    target: Target,
    weight_type: str,
    metadata: Mapping[str, str],
) -> Path:
    path = check_writable(path)
    wide_int8 = target.stores_int8(weight_type)
    target = dataclasses.replace(target, lowering=dataclasses.replace(target.lowering, wide_int8=wide_int8))
    opset = target.opset if opset is None else opset
    ir_version = ir_version_for(opset)
    model = to_onnx(graph_module, opset)
    lower(graph_module, model, target)
    explicit = target.lowering.explicit
    if not explicit:
        pack_weights(model.graph, opset, tables=target.unpacks_by_tables)
    _strip(model.graph)
    shorten_names(model.graph)
    model.ir_version = ir_version
    model.producer_name, model.producer_version = "qpass", __version__
    config = facts_of(graph_module).config
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    if sizes := _example_sizes(graph_module):
        model.metadata_props[EXAMPLE_SIZES] = json.dumps(sizes)
    model.metadata_props["qpass.format"] = explain(opset, packs=not explicit)
    if target.untried:
        model.metadata_props["qpass.format"] += f"; never run in {target.untried}"
    if config is not None:
        model.metadata_props["qpass.config"] = config.to_yaml()
        model.metadata_props["qpass.target"] = target.name
        model.metadata_props["qpass.options"] = json.dumps(dict(target.options))
        if _has_wide_products(graph_module):
            model.metadata_props[WEIGHT_TYPE] = (WeightType.INT8 if wide_int8 else WeightType.UINT8).value
            if not explicit:
                model.metadata_props["qpass.format"] += f"; {explain_weight_type(weight_type)}"
    model.metadata_props.update(metadata)
    write_model(model, path)
    _LOG.info("wrote %s: opset %d, %d bytes", path, opset, path.stat().st_size)
    return path


def _example_sizes(graph_module: fx.GraphModule) -> dict[str, list[int]]:
    """Returns the shapes of the traced inputs; empty if nothing but rows may vary."""
    if not any(isinstance(size, str) for dims in facts_of(graph_module).dims for size in dims[1:]):
        return {}
    inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder" and shape_of(node) is not None]
    return {input_name(node): list(shape_of(node) or ()) for node in inputs}


def processors(graph_module: fx.GraphModule, weight_type: str, target: str = DEFAULT_TARGET) -> str:
    """Describes the processors on which a file of this target and ``weight_type`` matches its graph."""
    found = target_by_name(target)
    overflows = _has_wide_products(graph_module) and found.stores_int8(weight_type)
    if found.untried:
        return f"{_FAST_PROCESSORS if overflows else EVERY_PROCESSOR} in onnxruntime; not run in {found.untried}"
    return f"{_FAST_PROCESSORS} (--weight-type uint8: on {EVERY_PROCESSOR})" if overflows else EVERY_PROCESSOR


def _has_wide_products(graph_module: fx.GraphModule) -> bool:
    """Returns whether codes above 127 may be multiplied by 8-bit operands; all other sums fit.

    onnxruntime turns signed activations into unsigned ones on x86. Low-bit codes may exceed 127
    because they may lie at the upper end of their byte. Codes of non-uniform quantizers do, because
    their decoding tables hold full bytes.
    """
    first = second = False
    for quantizer in graph_module.modules():
        if isinstance(quantizer, Uniform):
            first |= quantizer.code_max > GREATEST_INT8 or (quantizer.signed and quantizer.bits == 8 and quantizer.axis is None)
            second |= quantizer.bits == 8 and quantizer.signed
        elif isinstance(quantizer, WeightCodebook) or (isinstance(quantizer, ByteTable) and quantizer.levels_signed):
            second = True
        else:
            first |= isinstance(quantizer, Quantizer)
    return first and second


def lower(graph_module: fx.GraphModule, model: ir.Model, target: Target) -> None:
    """Lowers every ``qpass::`` node to standard operators and applies the target's rules, in place."""
    graph = model.graph
    output_names = [value.name for value in graph.outputs]
    take_marks(graph, [node for node in graph if (node.domain, node.op_type) == (DOMAIN, MARK)])
    for node in list(graph):
        if node.domain == DOMAIN:
            name = node.attributes["module"].as_string()
            module = graph_module.get_submodule(name)
            emit = Emitter(graph, name, target.lowering)
            emit.replace(node, lowering_of(module, name)(module, node, emit))
    remove_unread = common.RemoveUnusedNodesPass()
    remove_unread(model)
    for rule in target.rules:
        for near in rule.apply(graph).declined:
            _LOG.debug("%s", near)
        remove_unread(model)  # dead nodes would count as readers for the next rule
    name_layer_outputs(graph, output_names)
    separate_outputs(graph)
    model.opset_imports.update({node.domain: 1 for node in graph if node.domain == CONTRIB_DOMAIN})
    for step in (ShareInitializers(), common.RemoveUnusedOpsetsPass()):
        step(model)
    model.opset_imports.pop(DOMAIN, None)


def _strip(graph: ir.Graph) -> None:
    """Removes the exporter's metadata and the shapes of intermediate values.

    onnxruntime infers shapes itself. If the file has them, with a symbolic batch dim, it plans
    memory worse: a DeiT-S at batch 8 took about a third longer.
    """
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.shape = value.type = None
    for value in [*graph.inputs, *graph.initializers.values()]:
        value.metadata_props.clear()
    for value in graph.initializers.values():
        if not value.is_graph_output():
            value.shape = value.type = None  # its tensor has both
