"""``QuantSpec``: how one tensor is quantized, and which specs are valid for which role."""

from __future__ import annotations

from dataclasses import dataclass

from qpass.config.fields import check_fields, choice, flag, number, several, whole
from qpass.config.options import CodeZero, FitCriterion, QuantizerName
from qpass.errors import ConfigError

#: The readings of a code among which ``"best"`` chooses.
CODE_ZERO = (CodeZero.AFFINE.value, CodeZero.ZERO.value, CodeZero.SNAPPED.value)

#: Clip ranges tried for activations and weights, as in RepQ-ViT. 1.0 is the full range.
ACTIVATION_PERCENTILES = (0.999, 0.9999, 0.99999)
WEIGHT_PERCENTILES = (0.97, 0.98, 0.99, 0.995, 0.9995, 0.9997, 0.9999, 0.99995, 0.99999)

#: A few large values dominate the squared error of a Softmax output, but hardly affect the layer's
#: output: clip further down.
SOFTMAX_PERCENTILES = (0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0)

#: Tensors of a layer that a rule may change.
TENSOR_ROLES = ("weight", "activation", "post_softmax")
#: Fields of a config that hold a spec.
SPEC_FIELDS = (*TENSOR_ROLES, "network_input")

#: Quantizers of which no table of log-spaced cells is made.
_NOT_TABULATED = (QuantizerName.UNIFORM, QuantizerName.DYNAMIC_FOCUS, QuantizerName.CODEBOOK)
#: Quantizers of all tensors; the others are for Softmax outputs.
_FOR_ALL_ROLES = (QuantizerName.UNIFORM, QuantizerName.CODEBOOK)

_CHECKS = {
    "bits": whole(2, 8),
    "quantizer": choice(QuantizerName, noun="quantizer"),
    "symmetric": flag,
    "percentiles": several(number(lambda p: 0.5 < p <= 1, ""), "numbers in (0.5, 1]"),
    "criterion": choice(FitCriterion, noun="criterion"),
    "code_zero": choice(CodeZero, noun="reading"),
    "exponent_round": flag,
    "tabulated": flag,
    "residual_rank": whole(0, expected="a whole number, 0 for none"),
    "channels_per_table": whole(0, expected="a whole number, 0 for one table"),
}


@dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """How one tensor is quantized.

    Attributes:
        bits: Bit width, 2 to 8.
        quantizer: ``"uniform"`` or ``"codebook"`` (uniform at 8 bits), or for Softmax outputs
            ``"log2"``, ``"log-sqrt2"``, ``"dynamic-focus"``, ``"shift-log2"`` or ``"tan"``
            (``QuantizerName``).
        symmetric: Signed codes with zero point 0 (uniform only). Weights gain nothing from a zero point
            at 8 bits, and much at 4.
        percentiles: Clip ranges tried when fitting, each in (0.5, 1]; the lowest error wins.
        criterion: The error to minimize: of the ``"tensor"`` itself, or of the ``"output"`` of the
            matmul that reads it (Softmax output only; ``FitCriterion``).
        code_zero: How the codes of ``"dynamic-focus"`` decode: ``"affine"``, ``"zero"``,
            ``"snapped"``, or the one with the lowest error for each tensor: ``"best"`` of all,
            ``"learned"`` of those whose b1 is learned (``CodeZero``).
        exponent_round: Whether ``"shift-log2"`` rounds exponents to integers, as in I&S-ViT.
        tabulated: Deploy the quantizer of a Softmax output as a table of 256 log-spaced cells (see
            ``qpass.quantizers.LookUp``). The cost no longer depends on the formula; thresholds move to
            cell edges.
        residual_rank: Rank of a branch beside a Linear that compensates for the rounding of its weight
            and stays at inference (see ``qpass.passes.AddResidual``); 0 for none. Useful for
            weights of 2 or 3 bits.
        channels_per_table: Output channels of a weight that share a table of levels (``"codebook"``
            only); 0 for one table for all.

    Raises:
        ConfigError: If a field has the wrong type or is out of range, or two fields conflict.
    """

    bits: int = 8
    quantizer: str = QuantizerName.UNIFORM.value
    symmetric: bool = False
    percentiles: tuple[float, ...] = (*ACTIVATION_PERCENTILES, 1.0)
    criterion: str = FitCriterion.TENSOR.value
    code_zero: str = CodeZero.BEST.value
    exponent_round: bool = False
    tabulated: bool = False
    residual_rank: int = 0
    channels_per_table: int = 1

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS)
        if self.symmetric and self.quantizer != QuantizerName.UNIFORM:
            raise ConfigError(
                f"symmetric=True does not go with quantizer={self.quantizer!r}",
                where="symmetric",
                hint="leave it out: only uniform codes have a zero point to fix",
            )
        if self.tabulated and self.quantizer in _NOT_TABULATED:
            raise ConfigError(
                f"tabulated=True does not go with quantizer={self.quantizer!r}",
                where="tabulated",
                hint="leave it out: codes of equal steps are cheaper as they are, and a codebook is a table",
            )
        if self.quantizer == QuantizerName.CODEBOOK and self.residual_rank:
            raise ConfigError(
                f"residual_rank={self.residual_rank} does not go with quantizer='codebook'",
                where="residual_rank",
                hint="leave it out: the branch makes up for the rounding of uniform weights",
            )


def check_role(spec: QuantSpec, role: str, where: str) -> None:
    """Rejects a spec that is invalid for a tensor's role.

    Args:
        spec: The spec.
        role: One of ``SPEC_FIELDS``.
        where: Field or rule that the spec comes from, for messages.

    Raises:
        ConfigError: If the quantizer or criterion is only for Softmax outputs, or the residual branch
            only for weights.
    """
    if role == "weight" and spec.quantizer not in _FOR_ALL_ROLES:
        raise ConfigError(f"quantizer={spec.quantizer!r} on weights", where=where, expected="'uniform' or 'codebook'")
    if role != "post_softmax" and spec.quantizer not in _FOR_ALL_ROLES:
        raise ConfigError(
            f"quantizer={spec.quantizer!r}", where=where, expected="'uniform' or 'codebook': others are for Softmax outputs"
        )
    if role != "post_softmax" and spec.criterion != FitCriterion.TENSOR:
        raise ConfigError("criterion='output'", where=where, expected="'tensor': only the Softmax output has the other")
    if role != "weight" and spec.residual_rank:
        raise ConfigError("residual_rank above 0", where=where, expected="0: only a weight has a residual")
