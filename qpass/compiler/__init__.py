"""Compiles a recipe to passes, and a model and data to a quantized graph."""
