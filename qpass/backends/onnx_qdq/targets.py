"""Target runtimes, and how their files differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qpass.backends.onnx_qdq import rules
from qpass.backends.onnx_qdq.capabilities import PREFERRED_OPSET, WeightType, use_int8_weights
from qpass.backends.onnx_qdq.emit import LoweringOptions
from qpass.backends.onnx_qdq.onnx_rule import OnnxRule
from qpass.errors import LoweringError, nearest


@dataclass(frozen=True)
class Target:
    """How a file for one runtime is written.

    Attributes:
        name: Name that users pass.
        rules: Rewrite rules, in order: each produces the pattern that the next one matches.
        lowering: Options of the lowerings.
        options: Session or compile options by name, without which the runtime's results differ from
            the graph's. They are also in the file's metadata.
        unpacks_by_tables: Pack weights of 2, 3, 5, 6 and 7 bits in forms that the runtime folds
            when it loads the file.
        opset: Opset of a file for which none is asked.
        recipe: Fields of the recipe that ``qpass quantize --target`` sets, for the runtime to multiply
            integers.
        untried: The runtime's own name, if no file was ever run in it; "" if files were.
    """

    name: str
    rules: tuple[OnnxRule, ...]
    lowering: LoweringOptions = field(default_factory=LoweringOptions)
    options: Mapping[str, str] = field(default_factory=dict)
    unpacks_by_tables: bool = True
    opset: int = PREFERRED_OPSET
    recipe: Mapping[str, Any] = field(default_factory=dict)
    untried: str = ""

    def stores_int8(self, weight_type: str) -> bool:
        """Returns whether to store 8-bit second operands as int8, for the argument of ``export_onnx``.

        Raises:
            LoweringError: If ``weight_type`` is no ``WeightType``, or the runtime does not read it.
        """
        int8 = use_int8_weights(weight_type)
        if not self.lowering.explicit:
            return int8
        if weight_type == WeightType.UINT8:
            raise LoweringError(f"{self.untried} reads no uint8", where="weight_type", hint="leave it out, or take int8")
        return True


_STANDARD: tuple[OnnxRule, ...] = (
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
        Target("onnxruntime", (*_STANDARD, rules.dequantize_sums, rules.silu_of_codes)),
        Target("onnxruntime-contrib", (*_STANDARD, rules.contrib_matmul, rules.contrib_linear, rules.contrib_silu)),
        # OpenVINO has its own fusion patterns for Q/DQ pairs: a clipped byte or a weight with a
        # zero point keeps the product in float. It does not fold operators on bytes but runs them
        # in every inference.
        Target(
            "openvino",
            (rules.log_softmax, rules.dequantize_after_movement),
            LoweringOptions(clips_codes=False, weight_zero_points=False, expands_at_load=False),
            # By default it computes floats in bfloat16 if the processor supports it.
            {"INFERENCE_PRECISION_HINT": "f32"},
            unpacks_by_tables=False,
            recipe={"fused_attention": True},
        ),
        # TensorRT's parser takes codes only between Q and DQ: it has no integer products, casts or
        # movements. The first parser of TensorRT 10 reads opsets up to 20.
        Target(
            "tensorrt",
            (),
            LoweringOptions(weight_zero_points=False, expands_at_load=False, explicit=True),
            opset=20,
            recipe={"signed_codes": True},
            untried="TensorRT",
        ),
    )
}


def target_by_name(name: str) -> Target:
    """Returns a target.

    Raises:
        LoweringError: If no target has that name.
    """
    if name not in TARGETS:
        raise LoweringError(f"no target is called {name!r}", where="target", hint=nearest(str(name), TARGETS))
    return TARGETS[name]
