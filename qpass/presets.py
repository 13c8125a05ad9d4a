"""The recipes by name: ``w8a8`` and its kin, and one family for each published method."""

from __future__ import annotations

import dataclasses
import re

from qpass.config import ACTIVATION_PERCENTILES, SOFTMAX_PERCENTILES, WEIGHT_PERCENTILES, QuantConfig, QuantSpec
from qpass.errors import ConfigError, nearest
from qpass.reconstruction_config import ReconstructionConfig

#: Names that documentation and error messages list; any widths from 2 to 8 are understood.
PRESETS = (
    "w8a8", "w6a6", "w4a8", "w4a4", "w3a3",
    "aiqvit-w6a6", "aiqvit-w4a8", "aiqvit-w4a4", "aiqvit-w3a3",
    "aiqvit-lsq-w6a6", "aiqvit-lsq-w4a8", "aiqvit-lsq-w4a4", "aiqvit-lsq-w3a3",
    "ias-vit-w6a6", "ias-vit-w4a8", "ias-vit-w4a4", "ias-vit-w3a3",
    "dopq-vit-w6a6", "dopq-vit-w4a8", "dopq-vit-w4a4", "dopq-vit-w3a3",
    "repq-vit-w8a8", "repq-vit-w6a6", "repq-vit-w4a8", "repq-vit-w4a4", "repq-vit-w3a3",
)  # fmt: skip

#: Samples that ranges are fitted on where far more of them are learned from.
RANGE_SAMPLES = 128

#: Rate of learned activation scales, as a share of the scale. Chosen on training images held back from calibration, where
#: 1e-3 learns too little and 2e-2 fits the calibration images alone.
SCALE_LEARNING_RATE = 5e-3

#: Rate of three-stage learning in a fifth of the steps: on images held back from calibration it keeps more than 1e-4.
#: The paper's is for the whole length.
QUICK_THREE_STAGE_RATE = 4e-4

#: How long blocks are learned: as long as the paper does, or so that a DeiT-T takes under half an hour on two cores.
SCHEDULES = {
    "full": ReconstructionConfig(),
    "quick": ReconstructionConfig(search_steps=60, steps=400, batch_size=32, curriculum_interval=100),
}


#: The same for three-stage learning; at 6 bits and above the paper takes a fifth of the steps.
THREE_STAGES = ReconstructionConfig(
    weights="full", steps=1000, batch_size=64, learning_rate=4e-5, curriculum=False, order="three-stage", loss="squared"
)
THREE_STAGE_SCHEDULES = {
    "full": THREE_STAGES,
    "quick": dataclasses.replace(THREE_STAGES, steps=200, batch_size=32, learning_rate=QUICK_THREE_STAGE_RATE),
}


def preset(name: str, *, schedule: str | None = None) -> QuantConfig:
    """Returns the recipe of that name.

    ``wXaY`` is uniform everywhere, so that every matmul runs on an integer kernel: LayerNorm scales folded per channel,
    weights with a zero point below 6 bits, the Softmax output uniform. ``repq-vit-wXaY`` is the published method
    (RepQ-ViT, arXiv 2212.08254): the same fold, and a base-sqrt(2) logarithm for the Softmax output. ``aiqvit-wXaY`` is AIQViT
    (arXiv 2502.04628): dynamic focusing for the Softmax output, and low-rank compensated weights learned block by block.
    ``ias-vit-wXaY`` is I&S-ViT (arXiv 2311.10126): a shifted logarithm for the Softmax output, blocks learned in three stages.
    ``dopq-vit-wXaY`` is DopQ-ViT (arXiv 2408.03291): a tangent for the Softmax output and the median of LayerNorm scales,
    learned as I&S-ViT's, since the paper's schedule was not to be had.
    ``aiqvit-lsq-wXaY`` is ours: the same, and the scales of activations are learned too, with the gradient of LSQ (arXiv
    1902.08153).

    Args:
        name: One of ``PRESETS``, or the same with other widths from 2 to 8.
        schedule: ``"quick"`` or ``"full"``, how long recipes learn; None is ``"quick"``.

    Raises:
        ConfigError: If no recipe has that name, or a schedule is given to one that does not learn.
    """
    match = re.fullmatch(r"(repq-vit-|aiqvit-|aiqvit-lsq-|ias-vit-|dopq-vit-)?w([2-8])a([2-8])", name)
    if match is None:
        raise ConfigError(f"no preset is called {name!r}", where="config", hint=nearest(name, PRESETS))
    family, weight_bits, activation_bits = match[1], int(match[2]), int(match[3])
    if family in ("aiqvit-", "aiqvit-lsq-"):
        rate = SCALE_LEARNING_RATE if family == "aiqvit-lsq-" else 0.0
        learning = dataclasses.replace(_of_schedule(SCHEDULES, schedule), scale_learning_rate=rate)
        # The other readings lower the blocks' error on images held back by less than a hundredth, and cost speed.
        focus = QuantSpec(bits=activation_bits, quantizer="dynamic-focus", criterion="output", code_zero="snapped")
        return _learned(name, schedule, weight_bits, focus, learning)
    if family in ("ias-vit-", "dopq-vit-"):
        learning = _of_schedule(THREE_STAGE_SCHEDULES, schedule)
        if min(weight_bits, activation_bits) >= 6:
            learning = dataclasses.replace(learning, steps=learning.steps // 5)
        if family == "ias-vit-":
            shifted = QuantSpec(bits=activation_bits, quantizer="shift-log2", exponent_round=True, tabulated=True)
            return dataclasses.replace(_learned(name, schedule, weight_bits, shifted, learning), range_samples=64)
        tangent = QuantSpec(bits=activation_bits, quantizer="tan", criterion="output", tabulated=True)
        return dataclasses.replace(_learned(name, schedule, weight_bits, tangent, learning), fold_layer_norm="median")
    if schedule is not None:
        raise ConfigError(f"{name!r} learns nothing", where="schedule", hint="leave it out")
    if family == "repq-vit-":
        return _repq_vit(name, weight_bits, activation_bits)
    activation = QuantSpec(bits=activation_bits)
    return QuantConfig(
        name=name,
        weight=QuantSpec(bits=weight_bits, symmetric=weight_bits >= 6, percentiles=(*WEIGHT_PERCENTILES, 1.0)),
        activation=activation,
        post_softmax=QuantSpec(bits=activation_bits, percentiles=SOFTMAX_PERCENTILES, criterion="output"),
        calibrate_on="float" if min(weight_bits, activation_bits) == 8 else "quantized",
    )


def _repq_vit(name: str, weight_bits: int, activation_bits: int) -> QuantConfig:
    return QuantConfig(
        name=name,
        weight=QuantSpec(bits=weight_bits, percentiles=WEIGHT_PERCENTILES),
        activation=QuantSpec(bits=activation_bits, percentiles=ACTIVATION_PERCENTILES),
        post_softmax=QuantSpec(bits=activation_bits, quantizer="log-sqrt2", percentiles=ACTIVATION_PERCENTILES),
        network_input=QuantSpec(bits=8, percentiles=ACTIVATION_PERCENTILES),
        calibrate_on="quantized",
    )


def _of_schedule(schedules: dict[str, ReconstructionConfig], schedule: str | None) -> ReconstructionConfig:
    if schedule not in (None, *schedules):
        raise ConfigError(f"got {schedule!r}", where="schedule", hint=nearest(str(schedule), schedules))
    return schedules[schedule or "quick"]


def _learned(
    name: str, schedule: str | None, weight_bits: int, post_softmax: QuantSpec, learning: ReconstructionConfig
) -> QuantConfig:
    return QuantConfig(
        name=name if schedule in (None, "quick") else f"{name}, {schedule} schedule",
        weight=QuantSpec(bits=weight_bits, percentiles=WEIGHT_PERCENTILES),
        activation=QuantSpec(bits=post_softmax.bits, percentiles=ACTIVATION_PERCENTILES),
        post_softmax=post_softmax,
        network_input=QuantSpec(bits=8, percentiles=ACTIVATION_PERCENTILES),
        calibrate_on="quantized",
        range_samples=RANGE_SAMPLES,
        reconstruction=learning,
    )
