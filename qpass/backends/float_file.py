"""Writes a float model as an ONNX file, the baseline of sizes, timings and verification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from qpass.backends.onnx_qdq import export_float
from qpass.backends.onnx_qdq.preprocessing import describe_preprocessing, preprocessing_metadata
from qpass.data import Batch, ImageTransform
from qpass.data.batches import model_inputs
from qpass.graph.capture.already_quantized import refuse_quantized
from qpass.graph.capture.float_model import check_model, in_float32
from qpass.graph.capture.trace import trace
from qpass.graph.device import on_cpu


def write_float(
    model: nn.Module,
    example: Batch,
    path: Path,
    *,
    opset: int | None,
    dynamic_shapes: Any,
    preprocessing: ImageTransform | None,
    class_names: Sequence[str],
) -> Path:
    """See ``qpass.export_float``."""
    check_model(model)
    refuse_quantized(model, ())
    network, in_its_type = in_float32(on_cpu(model))
    call = in_its_type(model_inputs(example, network).to("cpu"))
    graph = trace(network, *call, dynamic_shapes=dynamic_shapes)
    images = None if preprocessing is None else describe_preprocessing(graph, preprocessing, class_names)
    return export_float(graph, path, opset=opset, metadata=preprocessing_metadata(images))
