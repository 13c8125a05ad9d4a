"""The runtimes that a file can be written for, and what differs between their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from qpass.backends.onnx_qdq import rules
from qpass.backends.onnx_qdq.emit import LoweringOptions
from qpass.errors import LoweringError, nearest

Rule = Callable[[ir.Graph], int]


@dataclass(frozen=True)
class Target:
    """How a file for one runtime is written.

    Attributes:
        name: What users call it.
        rules: Rewrite rules, in order: each makes the pattern that the next one looks for.
        lowering: What its lowerings do.
        options: Session or compile options, by name, without which the runtime does not compute what the graph computes. They
            are in the file's metadata too.
        unpacks_by_tables: Weights of 2, 3, 5, 6 and 7 bits are packed in forms that the runtime folds as it loads the file.
    """

    name: str
    rules: tuple[Rule, ...]
    lowering: LoweringOptions = field(default_factory=LoweringOptions)
    options: Mapping[str, str] = field(default_factory=dict)
    unpacks_by_tables: bool = True


_STANDARD: tuple[Rule, ...] = (
    rules.log_softmax,
    rules.dequantize_after_movement,
    rules.residual_rows,
    rules.offset_matmul,
    rules.integer_matmul,
    rules.fold_matmul_scale,
    rules.integer_output,
)

TARGETS = {
    target.name: target
    for target in (
        Target("onnxruntime", (*_STANDARD, rules.dequantize_sums)),
        Target("onnxruntime-contrib", (*_STANDARD, rules.contrib_matmul, rules.contrib_linear)),
        # OpenVINO fuses Q/DQ pairs by patterns of its own: a byte that is clipped or a weight with a zero point keeps the
        # product in float, and operators on bytes are not folded but run with every inference.
        Target(
            "openvino",
            (rules.log_softmax, rules.dequantize_after_movement),
            LoweringOptions(clips_codes=False, weight_zero_points=False),
            # Left to itself it computes all that is float in bfloat16, where the processor has it.
            {"INFERENCE_PRECISION_HINT": "f32"},
            unpacks_by_tables=False,
        ),
    )
}


def target_by_name(name: str) -> Target:
    """Returns a target.

    Raises:
        LoweringError: If there is none of that name.
    """
    if name not in TARGETS:
        raise LoweringError(f"no target is called {name!r}", where="export_onnx", hint=nearest(str(name), TARGETS))
    return TARGETS[name]
