"""Running, verifying and timing ONNX files with stock onnxruntime."""

from qpass.backends.onnxruntime.latency import LatencyReport, benchmark
from qpass.backends.onnxruntime.session import OrtSession
from qpass.backends.onnxruntime.verification import VerifyReport, verify

__all__ = ["LatencyReport", "OrtSession", "VerifyReport", "benchmark", "verify"]
