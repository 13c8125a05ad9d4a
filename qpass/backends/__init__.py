"""Backends turn a frozen graph into a deployable file. Only this package uses ONNX and onnxruntime."""
