"""Preset recipes by name: ``wXaY``, ``mixed-wXaZ``, and one family per published method."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from qpass.config.budget import BudgetConfig
from qpass.config.fields import choice, text, whole
from qpass.config.options import QuantizerName, Schedule
from qpass.config.reconstruction import ReconstructionConfig
from qpass.config.spec import ACTIVATION_PERCENTILES, SOFTMAX_PERCENTILES, WEIGHT_PERCENTILES, QuantSpec
from qpass.errors import ConfigError, nearest

#: Names listed in documentation and error messages; any bit widths from 2 to 8 work.
PRESETS = (
    "w8a8", "w6a6", "w4a8", "w4a4", "w3a3",
    "mixed-w6a7", "mixed-w4a5", "mixed-w3a4",
    "codebook-w4a8", "codebook-w3a8", "codebook-w2a8", "codebook-w4a4", "codebook-w3a3",
    "aiqvit-w6a6", "aiqvit-w4a8", "aiqvit-w4a4", "aiqvit-w3a3",
    "aiqvit-lsq-w6a6", "aiqvit-lsq-w4a8", "aiqvit-lsq-w4a4", "aiqvit-lsq-w3a3",
    "ias-vit-w6a6", "ias-vit-w4a8", "ias-vit-w4a4", "ias-vit-w3a3",
    "dopq-vit-w6a6", "dopq-vit-w4a8", "dopq-vit-w4a4", "dopq-vit-w3a3",
    "repq-vit-w8a8", "repq-vit-w6a6", "repq-vit-w4a8", "repq-vit-w4a4", "repq-vit-w3a3",
)  # fmt: skip

#: Samples on which ranges are fitted when learning uses far more of them.
RANGE_SAMPLES = 128

#: Learning rate of activation scales, relative to the scale. Chosen on held-out training images:
#: 1e-3 learns too little, and 2e-2 overfits the calibration images.
SCALE_LEARNING_RATE = 5e-3

#: Learning rate of three-stage learning with a fifth of the steps. On held-out images it keeps more
#: accuracy than 1e-4; the paper's rate is for the full number of steps.
QUICK_THREE_STAGE_RATE = 4e-4

#: How long to learn: as in the paper, or so that DeiT-T takes under half an hour on two cores.
SCHEDULES = {
    "full": ReconstructionConfig(),
    "quick": ReconstructionConfig(search_steps=60, steps=400, batch_size=32, curriculum_interval=100),
}
LEARNED_SCALE_SCHEDULES = {
    name: dataclasses.replace(schedule, scale_learning_rate=SCALE_LEARNING_RATE) for name, schedule in SCHEDULES.items()
}
#: The same for three-stage learning; from 6 bits on, the paper uses a fifth of the steps.
THREE_STAGES = ReconstructionConfig(
    weights="full",
    ends=True,
    steps=1000,
    batch_size=64,
    learning_rate=4e-5,
    curriculum=False,
    order="three-stage",
    loss="squared",
)
THREE_STAGE_SCHEDULES = {
    "full": THREE_STAGES,
    "quick": dataclasses.replace(THREE_STAGES, steps=200, batch_size=32, learning_rate=QUICK_THREE_STAGE_RATE),
}

#: Optional learning after closed-form recipes: weights, biases and activation scales. The loss is
#: the error of the block and of the network's outputs; the weight of the latter is GLF-Q's.
POLISHES = {
    "quick": ReconstructionConfig(
        weights="full", steps=120, batch_size=32, learning_rate=4e-4, scale_learning_rate=SCALE_LEARNING_RATE,
        curriculum=False, loss="squared", output_weight=0.5,
    ),
}  # fmt: skip


def preset_fields(name: str, *, schedule: str | None = None, polish: str | None = None) -> dict[str, Any]:
    """Returns the ``QuantConfig`` fields of a preset.

    ``wXaY`` is ours and closed-form: every weight has X bits and every activation Y bits, but for the
    network's input, which keeps 8 bits in all recipes. LayerNorm scales are folded per channel; the
    channels of attention heads and of the residual stream are rotated. Weights are rounded with error
    feedback that weights tokens by their effect on the output, and have a zero point below 6 bits.
    Below 8 bits, weights also compensate for the quantization of their inputs. ``w8a8`` uses plain
    rounding, which is as good there. Levels are in equal steps, so that every matmul runs on an
    integer kernel, with one exception. Below 8 bits, the Softmax output has 2^Y levels in equal steps
    of a shifted logarithm: most of its values are near zero, where equal steps resolve nothing. The
    file looks them up in a table of 256 cells, by a GatherElements over all values, and multiplies
    attention with V in float. ``post_softmax: {quantizer: uniform, tabulated: false}`` has equal steps.

    Convolutions are quantized too (``Convolutions.FASTEST``): the weights of all, with X bits, and the
    inputs, with Y bits, where that is faster on a CPU. Such a convolution's output has 8 bits if no
    layer's input follows, because integer kernels have no float outputs.

    ``mixed-wXaZ`` has activations of Z - 1 or 8 bits: 8 where the output gains most, Z on average over
    all multiply-adds. Z is 3 to 7. The Softmax output has levels in equal steps too; otherwise it is
    like ``wXaY``.

    ``codebook-wXaY`` is like ``wXaY``, but activations have 2^Y levels and weights 2^X levels that may
    lie anywhere on the 8-bit grid, where Y and X are below 8. Weights and activations of 8 bits are
    uniform. With activations of 8 bits, LayerNorm scales are not folded and nothing is rotated: both
    help activations, but make weights harder to round to few levels.

    Published methods quantize Linears, attention and patch embeddings, as their papers do, and no other
    convolutions:

    - ``repq-vit-wXaY`` (RepQ-ViT, arXiv 2212.08254): the same fold; a base-sqrt(2) logarithm for the
      Softmax output.
    - ``aiqvit-wXaY`` (AIQViT, arXiv 2502.04628): dynamic focusing for the Softmax output; low-rank
      compensated weights, learned block by block.
    - ``ias-vit-wXaY`` (I&S-ViT, arXiv 2311.10126): a shifted logarithm for the Softmax output; blocks,
      patch embedding and head learned in three stages. Its code quantizes the image with Y bits.
    - ``dopq-vit-wXaY`` (DopQ-ViT, arXiv 2408.03291): a tangent for the Softmax output; the median of
      LayerNorm scales. The paper's schedule and formula were not available: it learns like I&S-ViT,
      and the two-parameter tangent is ours.

    ``aiqvit-lsq-wXaY`` is ours: AIQViT with activation scales learned too, by LSQ's gradient (arXiv
    1902.08153).

    Args:
        name: One of ``PRESETS``, or the same with other bit widths from 2 to 8.
        schedule: ``"quick"`` or ``"full"``: how long recipes learn. None is ``"quick"``.
        polish: ``"quick"`` learns each block of ``wXaY`` or ``mixed-wXaZ`` for 120 steps after
            the closed form. None skips this.

    Raises:
        ConfigError: If the name is unknown, ``mixed-wXaZ`` has another Z than 3 to 7, ``schedule`` is
            given for a recipe that does not learn, or ``polish`` for one that does.
    """
    name = text(name, "preset")
    match = re.fullmatch(r"(?:(.+)-)?w([2-8])a([2-8])", name)
    if match is None or (match[1] or "") not in _FAMILIES:
        raise ConfigError(f"no preset is called {name!r}", where="config", hint=nearest(name, PRESETS))
    schedules, build = _FAMILIES[match[1] or ""]
    if schedule is not None and not schedules:
        raise ConfigError(f"{name!r} learns nothing", where="schedule", hint="leave it out")
    if schedule is not None:
        choice(tuple(schedules))(schedule, "schedule")
    if polish is not None and schedules:
        raise ConfigError(f"{name!r} already learns", where="polish", hint="leave it out")
    if polish is not None:
        choice(tuple(POLISHES))(polish, "polish")
    found = build(int(match[2]), int(match[3]), schedules.get(schedule or Schedule.QUICK))
    if polish is not None:
        name = f"{name}, polish {polish}"
        found |= {"reconstruction": POLISHES[polish], "range_samples": RANGE_SAMPLES}
    return found | {"name": f"{name}, full schedule" if schedule == Schedule.FULL else name}


def _closed_form(weight_bits: int, activation_bits: int, _: ReconstructionConfig | None) -> dict[str, Any]:
    eight = min(weight_bits, activation_bits) == 8
    return {
        "weight": QuantSpec(bits=weight_bits, symmetric=weight_bits >= 6, percentiles=(*WEIGHT_PERCENTILES, 1.0)),
        "activation": QuantSpec(bits=activation_bits),
        "post_softmax": _equal_steps(activation_bits) if activation_bits == 8 else _shifted_logarithm(activation_bits),
        "network_input": QuantSpec(bits=8),
        "rotate_heads": not eight,
        "rotate_residual": not eight,
        "weight_rounding": "nearest" if weight_bits == 8 else "error-feedback",
        "compensate_activations": activation_bits < 8,
        "token_weights": "equal" if eight else "hessian",
        "calibrate_on": "float" if eight else "quantized",
        "convolutions": "fastest",
    }


def _equal_steps(bits: int) -> QuantSpec:
    return QuantSpec(bits=bits, percentiles=SOFTMAX_PERCENTILES, criterion="output")


def _shifted_logarithm(bits: int) -> QuantSpec:
    """Returns I&S-ViT's quantizer with exponents unrounded: rounded, many of its levels coincide."""
    return QuantSpec(bits=bits, quantizer="shift-log2", criterion="output", tabulated=True)


def _mixed(weight_bits: int, mean_bits: int, learning: ReconstructionConfig | None) -> dict[str, Any]:
    """Returns a recipe whose activations have one bit less than the mean, or 8 where they lose most.

    8 bits cost nothing where codes are stored in bytes. An 8-bit code is two 4-bit codes that share a
    weight: on hardware that multiplies only 4 by 4 bits, such a tensor takes two products. Two
    intervals with separate codes cost the same and gain less.
    """
    whole(3, 7, expected="a mean of 3 to 7 bits")(mean_bits, "mixed-wXaZ")
    bits = mean_bits - 1
    budget = BudgetConfig(activation_bits=mean_bits, activation_widths=(bits, 8))
    return _closed_form(weight_bits, bits, learning) | {"post_softmax": _equal_steps(bits), "budget": budget}


#: Free levels lose more by a fold or a rotation of the weights than 8-bit activations gain.
_UNCHANGED_WEIGHTS = {"fold_layer_norm": None, "rotate_heads": False, "rotate_residual": False}


def _codebook(weight_bits: int, activation_bits: int, learning: ReconstructionConfig | None) -> dict[str, Any]:
    fields = _closed_form(weight_bits, activation_bits, learning) | {"post_softmax": _equal_steps(activation_bits)}
    narrow = {"weight": weight_bits < 8, "activation": activation_bits < 8, "post_softmax": activation_bits < 8}
    for role in (role for role, is_narrow in narrow.items() if is_narrow):
        fields[role] = dataclasses.replace(fields[role], quantizer=QuantizerName.CODEBOOK, symmetric=False)
    return fields | (_UNCHANGED_WEIGHTS if activation_bits == 8 else {})


def _repq_vit(weight_bits: int, activation_bits: int, _: ReconstructionConfig | None) -> dict[str, Any]:
    logarithm = QuantSpec(bits=activation_bits, quantizer="log-sqrt2", percentiles=ACTIVATION_PERCENTILES)
    return _published(weight_bits, logarithm)


def _aiqvit(weight_bits: int, activation_bits: int, learning: ReconstructionConfig | None) -> dict[str, Any]:
    focus = QuantSpec(bits=activation_bits, quantizer="dynamic-focus", criterion="output", code_zero="learned")
    return _published(weight_bits, focus, reconstruction=learning, range_samples=RANGE_SAMPLES)


def _ias_vit(weight_bits: int, activation_bits: int, learning: ReconstructionConfig | None) -> dict[str, Any]:
    shifted = QuantSpec(bits=activation_bits, quantizer="shift-log2", exponent_round=True, tabulated=True)
    learning = _fewer_steps(weight_bits, activation_bits, learning)
    return _published(weight_bits, shifted, reconstruction=learning, range_samples=64)


def _dopq_vit(weight_bits: int, activation_bits: int, learning: ReconstructionConfig | None) -> dict[str, Any]:
    tangent = QuantSpec(bits=activation_bits, quantizer="tan", criterion="output", tabulated=True)
    learning = _fewer_steps(weight_bits, activation_bits, learning)
    return _published(weight_bits, tangent, reconstruction=learning, range_samples=RANGE_SAMPLES, fold_layer_norm="median")


def _fewer_steps(weight_bits: int, activation_bits: int, learning: ReconstructionConfig | None) -> ReconstructionConfig:
    """Returns I&S-ViT's learning at these bit widths: a fifth of the steps from 6 bits on."""
    assert learning is not None
    return dataclasses.replace(learning, steps=learning.steps // 5) if min(weight_bits, activation_bits) >= 6 else learning


def _published(weight_bits: int, post_softmax: QuantSpec, **more: Any) -> dict[str, Any]:
    """Returns the fields that the published methods share: RepQ-ViT's."""
    return {
        "weight": QuantSpec(bits=weight_bits, percentiles=WEIGHT_PERCENTILES),
        "activation": QuantSpec(bits=post_softmax.bits, percentiles=ACTIVATION_PERCENTILES),
        "post_softmax": post_softmax,
        "network_input": QuantSpec(bits=8, percentiles=ACTIVATION_PERCENTILES),
        "every_softmax": True,
        "calibrate_on": "quantized",
        **more,
    }


_Build = Callable[[int, int, ReconstructionConfig | None], dict[str, Any]]
_FAMILIES: dict[str, tuple[dict[str, ReconstructionConfig], _Build]] = {
    "": ({}, _closed_form),
    "mixed": ({}, _mixed),
    "codebook": ({}, _codebook),
    "repq-vit": ({}, _repq_vit),
    "aiqvit": (SCHEDULES, _aiqvit),
    "aiqvit-lsq": (LEARNED_SCALE_SCHEDULES, _aiqvit),
    "ias-vit": (THREE_STAGE_SCHEDULES, _ias_vit),
    "dopq-vit": (THREE_STAGE_SCHEDULES, _dopq_vit),
}
