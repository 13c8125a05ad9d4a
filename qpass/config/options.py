"""The values of configs' text fields, as enums: code compares with their members.

Configs hold plain strings, which equal the members, so that they print and are written as such.
"""

from enum import StrEnum


class QuantizerName(StrEnum):
    """``QuantSpec.quantizer``: how values are mapped to codes. Most are for Softmax outputs only."""

    UNIFORM = "uniform"
    """Levels in equal steps (``qpass.quantizers.Uniform``). For all tensors."""
    CODEBOOK = "codebook"
    """2^k levels anywhere among those of 8 bits (``qpass.quantizers.Codebook``). For all tensors."""
    LOG2 = "log2"
    """Levels in powers of 2 (``qpass.quantizers.Log2``)."""
    LOG_SQRT2 = "log-sqrt2"
    """Levels in powers of the root of 2 (RepQ-ViT, arXiv 2212.08254; ``qpass.quantizers.LogSqrt2``)."""
    DYNAMIC_FOCUS = "dynamic-focus"
    """Equal steps within a learned interval (AIQViT, arXiv 2502.04628; ``qpass.quantizers.DynamicFocus``)."""
    SHIFT_LOG2 = "shift-log2"
    """Uniform after a shifted logarithm (I&S-ViT, arXiv 2311.10126; ``qpass.quantizers.ShiftLog2``)."""
    TAN = "tan"
    """Uniform after a tangent (DopQ-ViT, arXiv 2408.03291; ``qpass.quantizers.Tan``)."""


class FitCriterion(StrEnum):
    """``QuantSpec.criterion``: the error that fitting minimizes."""

    TENSOR = "tensor"
    """The squared error of the tensor itself."""
    OUTPUT = "output"
    """The squared error of the matmul that reads it: attention times V. For Softmax outputs only."""


class CodeZero(StrEnum):
    """``QuantSpec.code_zero``: how the codes of ``"dynamic-focus"`` decode.

    The paper (AIQViT, arXiv 2502.04628) leaves this open. See ``qpass.quantizers.DynamicFocus``.
    """

    BEST = "best"
    """Whichever of the others has the lowest error, chosen for each tensor."""
    LEARNED = "learned"
    """``"affine"`` or ``"zero"``, likewise: the readings whose b1 is learned."""
    AFFINE = "affine"
    """b1 + s q."""
    ZERO = "zero"
    """The same, except that code 0 decodes to 0."""
    SNAPPED = "snapped"
    """b1 is rounded to a multiple of s: the codes of a uniform quantizer."""


class FoldTarget(StrEnum):
    """``QuantConfig.fold_layer_norm``: the one scale that replaces the channels' scales."""

    MEAN = "mean"
    """Their mean (RepQ-ViT, arXiv 2212.08254)."""
    MEDIAN = "median"
    """Their median (DopQ-ViT, arXiv 2408.03291)."""


class Convolutions(StrEnum):
    """``QuantConfig.convolutions``: which convolutions to quantize."""

    PATCHES = "patches"
    """Those whose windows tile the input: patch embeddings and, as far as ``pointwise_convolutions``
    says, 1x1 convolutions. Papers on transformers quantize no others."""
    FASTEST = "fastest"
    """All: weights everywhere, and inputs where integer products are faster on a CPU.

    ``benchmarks/results/convolutions.md`` has the measurements."""
    WEIGHTS = "weights"
    """All, but inputs only in patch embeddings."""
    ALL = "all"
    """All, weights and inputs, for other hardware."""


class PointwiseConvolutions(StrEnum):
    """``QuantConfig.pointwise_convolutions``: what ``Convolutions.PATCHES`` quantizes in 1x1 convolutions."""

    WEIGHTS = "weights"
    """Weights only."""
    ALL = "all"
    """Weights and inputs."""


class WeightRounding(StrEnum):
    """``QuantConfig.weight_rounding``: how weights become integers."""

    NEAREST = "nearest"
    """Each weight to the nearest level."""
    ERROR_FEEDBACK = "error-feedback"
    """Column by column; later columns compensate for each error in the metric of the layer's inputs.

    GPTQ (arXiv 2210.17323) and GPTAQ (arXiv 2504.02692); see ``qpass.passes.RidgeAndGPTQ``.
    """


class TokenWeights(StrEnum):
    """``QuantConfig.token_weights``: the weight of each token of a layer's output in weight correction."""

    EQUAL = "equal"
    """The same for all."""
    HESSIAN = "hessian"
    """The effect of its error on the network's output: a Hessian's diagonal, from one backward pass."""


class CalibrateOn(StrEnum):
    """``QuantConfig.calibrate_on``: the network whose values ranges are fitted on."""

    FLOAT = "float"
    """The float network."""
    QUANTIZED = "quantized"
    """The preceding quantized layers, in a second run over the data, as in RepQ-ViT's published code."""


class LearnedWeights(StrEnum):
    """``ReconstructionConfig.weights``: what to learn in the Linears of a block."""

    LOW_RANK = "low-rank"
    """Factors B A, added before rounding (AILoC; AIQViT, arXiv 2502.04628, eq. 9)."""
    FULL = "full"
    """The weights and biases themselves: a control that AIQViT lacks, and what I&S-ViT learns."""
    FIXED = "fixed"
    """Nothing."""


class BlockInputs(StrEnum):
    """``ReconstructionConfig.inputs``: which blocks before it a block's inputs come from."""

    QUANTIZED = "quantized"
    """The quantized ones, which have been learned."""
    FLOAT = "float"
    """The float ones."""


class LearningOrder(StrEnum):
    """``ReconstructionConfig.order``: whether LayerNorm scales are folded before or after learning."""

    FOLD_FIRST = "fold-first"
    """Fold, then learn."""
    PAPER = "paper"
    """Learn, then fold (AIQViT). Keeps less accuracy (benchmarks/results/ablation.md)."""
    THREE_STAGE = "three-stage"
    """Learn with float weights, a scale per channel and float inputs; fold; learn with rounded weights.

    I&S-ViT (arXiv 2311.10126). ``inputs`` applies to the last stage.
    """


class BlockLoss(StrEnum):
    """``ReconstructionConfig.loss``: the loss of a sample."""

    NORM = "norm"
    """The norm of the difference between the two outputs of a block (AIQViT, arXiv 2502.04628)."""
    SQUARED = "squared"
    """The square of that norm (I&S-ViT, arXiv 2311.10126)."""


class Precision(StrEnum):
    """``ReconstructionConfig.precision``: the precision of matmuls in a step."""

    AUTO = "auto"
    """bfloat16 where the hardware multiplies it faster, else float32."""
    FLOAT32 = "float32"
    """float32."""
    BFLOAT16 = "bfloat16"
    """bfloat16, by autocast."""


class Schedule(StrEnum):
    """``schedule`` of a preset that learns: for how long."""

    QUICK = "quick"
    """So that DeiT-T takes under half an hour on two cores."""
    FULL = "full"
    """As in the paper."""
