"""Running, verifying and timing ONNX files with stock onnxruntime."""

from qpass.backends.onnxruntime.explain import Explanation, explain
from qpass.backends.onnxruntime.latency import LatencyReport, benchmark
from qpass.backends.onnxruntime.module import OrtModule
from qpass.backends.onnxruntime.session import OrtSession
from qpass.backends.onnxruntime.verification import verify
from qpass.backends.onnxruntime.verify_report import VerifyReport
from qpass.runtime.public_names import only

__all__ = ["Explanation", "LatencyReport", "OrtModule", "OrtSession", "VerifyReport", "benchmark", "explain", "verify"]
__dir__ = only(__all__)
