"""What qpass's files are timed against: onnxruntime's own quantizers, and other runtimes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from qpass.backends.onnxruntime.latency import Contender


class _Reader(CalibrationDataReader):
    """Feeds the same images to onnxruntime's calibration."""

    def __init__(self, name: str, images: Tensor) -> None:
        self._feeds = iter([{name: images.numpy()}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def ort_static(float_file: Path, images: Tensor, path: Path) -> Path:
    """Onnxruntime's ``quantize_static`` as its documentation recommends for transformers on x86.

    uint8 x int8, per channel.
    """
    prepared = _prepared(float_file)
    name = onnx.load(float_file, load_external_data=False).graph.input[0].name
    quantize_static(
        str(prepared), str(path), _Reader(name, images), quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True,
    )  # fmt: skip
    return path


def ort_dynamic(float_file: Path, images: Tensor, path: Path) -> Path:
    """Onnxruntime's ``quantize_dynamic``: activations get their scale while the network runs."""
    quantize_dynamic(str(_prepared(float_file)), str(path), weight_type=QuantType.QInt8, per_channel=True)
    return path


def _prepared(float_file: Path) -> Path:
    """Returns the float file as both quantizers want it.

    quantize_dynamic trips over inferred shapes of a renamed constant.
    """
    prepared = float_file.with_suffix(".prepared.onnx")
    if prepared.exists():
        return prepared
    shaped = float_file.with_suffix(".shaped.onnx")
    quant_pre_process(str(float_file), str(shaped), skip_symbolic_shape=True)
    model = onnx.load(shaped)
    del model.graph.value_info[:]
    onnx.save(model, prepared)
    return prepared


def torch_contender(model: nn.Module, images: Tensor, *, compiled: bool = False) -> Contender:
    """The model in torch, eager or compiled."""

    def make(batch: int, threads: int) -> Callable[[], object]:
        torch.set_num_threads(threads)
        torch._dynamo.reset()
        call: Any = torch.compile(model, dynamic=False) if compiled else model
        inputs = images[:1].expand(batch, *images.shape[1:]).contiguous()

        def run() -> object:
            with torch.inference_mode():
                return call(inputs)

        return run

    return make


def torchao_contender(model: nn.Module, images: Tensor) -> Contender:
    """Torchao's int8 weights and dynamically quantized int8 activations, compiled: its form for a CPU."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = copy.deepcopy(model)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return torch_contender(model, images, compiled=True)


def openvino_contender(path: Path, precision: str) -> Contender:
    """A file in OpenVINO, its float part in ``"f32"`` or ``"bf16"``, with shapes fixed to the batch."""
    import openvino

    return _openvino(openvino.Core().read_model(path), precision)


def nncf_model(float_file: Path, images: Tensor) -> Any:
    """NNCF's int8 post-training quantization for transformers."""
    import nncf
    import openvino

    model = openvino.Core().read_model(float_file)
    dataset = nncf.Dataset([images[i : i + 1].numpy() for i in range(len(images))])
    return nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER)


def _openvino(model: Any, precision: str) -> Contender:
    import openvino

    def make(batch: int, threads: int) -> Callable[[], object]:
        fixed = model.clone()
        shape = [d.get_length() if d.is_static else batch for d in fixed.inputs[0].get_partial_shape()]
        fixed.reshape(openvino.PartialShape(shape))
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        request = openvino.Core().compile_model(fixed, "CPU", options).create_infer_request()
        inputs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        return lambda: request.infer({0: inputs})

    return make


def float_runtimes(model: nn.Module, images: Tensor, float_file: Path) -> Iterator[tuple[str, Callable[[], Contender]]]:
    """Yields each runtime by name, and what makes its contender: some fail on some models."""
    quantized = functools.cache(lambda: nncf_model(float_file, images))
    yield "torch eager", lambda: torch_contender(model, images)
    yield "torch.compile", lambda: torch_contender(model, images, compiled=True)
    yield "torchao int8", lambda: torchao_contender(model, images)
    yield "OpenVINO float32", lambda: openvino_contender(float_file, "f32")
    yield "OpenVINO bf16", lambda: openvino_contender(float_file, "bf16")
    yield "NNCF int8, OpenVINO float32", lambda: _openvino(quantized(), "f32")
    yield "NNCF int8, OpenVINO bf16", lambda: _openvino(quantized(), "bf16")
