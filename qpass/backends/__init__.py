"""Backends: a frozen graph -> an artefact that runs elsewhere. Only this package knows ONNX and onnxruntime."""
