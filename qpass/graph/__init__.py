"""Graphs of models: captured, checked against the model, cut into parts, and edited."""
