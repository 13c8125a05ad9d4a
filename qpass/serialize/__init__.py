"""Saves and loads quantized graphs: safetensors with the graph as JSON. No pickle, no code."""

from qpass.runtime.public_names import only
from qpass.serialize.file import FORMAT, load_graph, save_graph

__all__ = ["FORMAT", "load_graph", "save_graph"]
__dir__ = only(__all__)
