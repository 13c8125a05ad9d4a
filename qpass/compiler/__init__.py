"""From a recipe to passes, and from a model and data to a quantized graph."""
