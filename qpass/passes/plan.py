"""Decisions that ``annotate`` makes for a node and later passes carry out."""

from __future__ import annotations

from dataclasses import dataclass

from qpass.config import QuantSpec


@dataclass(frozen=True, kw_only=True)
class OperandPlan:
    """How one input of a layer is quantized.

    Attributes:
        index: Position among the node's arguments.
        spec: The quantizer, or None for float.
        signed: Whether the codes are stored as signed integers.
        role: ``"activation"`` or ``"post_softmax"``.
        where_read: Whether a matmul's operand is quantized as the matmul reads it, instead of before it
            is moved.
    """

    index: int
    spec: QuantSpec | None
    signed: bool = False
    role: str = "activation"
    where_read: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """How one Linear, convolution, matmul or Softmax is quantized.

    Attributes:
        kind: ``"linear"``, ``"conv1d"``, ``"conv2d"``, ``"conv3d"``, ``"matmul"`` or
            ``"softmax"``.
        path: Module path.
        operands: Its float inputs; none for a Softmax.
        weight: The weight's quantizer, or None for float (always None for a matmul).
        output: The quantizer of its output, or None for none: that of a Softmax, or of a convolution,
            for which runtimes have integer kernels only if its output is quantized.
        reason: Why the input of a layer with a quantized weight stays float; "" if it does not.
    """

    kind: str
    path: str
    operands: tuple[OperandPlan, ...]
    weight: QuantSpec | None = None
    output: QuantSpec | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Declined:
    """A layer that stays float, and why."""

    kind: str
    path: str
    reason: str
