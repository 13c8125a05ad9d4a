"""What a graph takes and gives: sizes and kinds of its inputs, and the structure of its outputs."""
