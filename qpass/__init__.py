"""qpass: post-training quantization of vision transformers, from PyTorch to verified ONNX QDQ."""

import logging

from qpass.api import (
    benchmark_latency,
    evaluate,
    export_float,
    export_onnx,
    images,
    load,
    onnxruntime_model,
    quantization_report,
    quantize_graph,
    quantize_to_accuracy,
    save,
    sensitivity_report,
    verify_onnx,
)
from qpass.config import QuantConfig, QuantSpec
from qpass.errors import (
    AccuracyError,
    CalibrationError,
    ConfigError,
    DataError,
    DistributedError,
    LoweringError,
    QPassError,
    SourceError,
    TraceError,
    UnsupportedError,
    VerifyError,
)
from qpass.runtime import old_paths
from qpass.runtime.public_names import only
from qpass.version import __version__

old_paths.install()
logging.getLogger(__name__).addHandler(logging.NullHandler())  # a program that wants the log adds one

__all__ = [
    "AccuracyError",
    "CalibrationError",
    "ConfigError",
    "DataError",
    "DistributedError",
    "LoweringError",
    "QPassError",
    "QuantConfig",
    "QuantSpec",
    "SourceError",
    "TraceError",
    "UnsupportedError",
    "VerifyError",
    "__version__",
    "benchmark_latency",
    "evaluate",
    "export_float",
    "export_onnx",
    "images",
    "load",
    "onnxruntime_model",
    "quantization_report",
    "quantize_graph",
    "quantize_to_accuracy",
    "save",
    "sensitivity_report",
    "verify_onnx",
]
__dir__ = only(__all__)
