"""The recipes by name: ``w8a8`` and its kin, and one family for each published method."""

from __future__ import annotations

import re

from qpass.config import ACTIVATION_PERCENTILES, WEIGHT_PERCENTILES, QuantConfig, QuantSpec
from qpass.errors import ConfigError, nearest

#: Names that documentation and error messages list; any widths from 2 to 8 are understood.
PRESETS = (
    "w8a8", "w6a6", "w4a8", "w4a4", "w3a3",
    "repq-vit-w8a8", "repq-vit-w6a6", "repq-vit-w4a8", "repq-vit-w4a4", "repq-vit-w3a3",
)  # fmt: skip

#: A few great values make most of the squared error of a Softmax output and little of the output's: clip further down.
SOFTMAX_PERCENTILES = (0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0)


def preset(name: str) -> QuantConfig:
    """Returns the recipe of that name.

    ``wXaY`` is uniform everywhere, so that every matmul runs on an integer kernel: LayerNorm scales folded per channel,
    weights with a zero point below 6 bits, the Softmax output uniform. ``repq-vit-wXaY`` is the published method
    (RepQ-ViT, arXiv 2212.08254): the same fold, and a base-sqrt(2) logarithm for the Softmax output.

    Args:
        name: One of ``PRESETS``, or the same with other widths from 2 to 8.

    Raises:
        ConfigError: If no recipe has that name.
    """
    match = re.fullmatch(r"(repq-vit-)?w([2-8])a([2-8])", name)
    if match is None:
        raise ConfigError(f"no preset is called {name!r}", where="config", hint=nearest(name, PRESETS))
    family, weight_bits, activation_bits = match[1], int(match[2]), int(match[3])
    if family:
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
