"""Saving and loading quantized graphs: tensors by safetensors, the graph as JSON in its header. No pickle, no code."""

from qpass.serialize.file import FORMAT, load_graph, save_graph

__all__ = ["FORMAT", "load_graph", "save_graph"]
