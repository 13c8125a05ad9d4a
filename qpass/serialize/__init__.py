"""Saves and loads quantized graphs: safetensors with the graph as JSON. No pickle, no code."""

from qpass.serialize.file import FORMAT, load_graph, save_graph

__all__ = ["FORMAT", "load_graph", "save_graph"]
