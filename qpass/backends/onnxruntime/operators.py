"""Kinds of onnxruntime operators, by type."""

from __future__ import annotations

#: Operators of the optimised graph that multiply integers.
INTEGER_PRODUCTS = (
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QGemm",
    "QLinearMatMul",
    "QLinearConv",
    "ConvInteger",
    "QAttention",
    "MatMulNBits",
)
FLOAT_PRODUCTS = ("MatMul", "Gemm", "Conv", "FusedMatMul", "FusedConv", "FusedGemm", "Einsum")
#: Operators that convert floats to codes or back.
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "Cast")
MOVEMENTS = (
    "Transpose",
    "Reshape",
    "Flatten",
    "Split",
    "Concat",
    "Slice",
    "Gather",
    "Squeeze",
    "Unsqueeze",
    "Expand",
    "Pad",
    "Shape",
)


def kind_of(operator: str) -> str:
    """Returns an operator's kind.

    One of ``"integer product"``, ``"float product"``, ``"conversion"``, ``"movement"`` or, for all
    others, ``"float"``.
    """
    kinds = (
        ("integer product", INTEGER_PRODUCTS),
        ("float product", FLOAT_PRODUCTS),
        ("conversion", CONVERSIONS),
        ("movement", MOVEMENTS),
    )
    return next((kind for kind, operators in kinds if operator in operators), "float")
