"""The signature of a graph: sizes and kinds of its inputs, and the structure of its outputs."""
